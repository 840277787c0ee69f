"""The normalized services beside storage: procedure steps, availability, storage commitment (PS3.4 F, R, J)."""

import threading
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any
from weakref import WeakValueDictionary

from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_ACTION, N_CREATE, N_EVENT_REPORT, N_SET
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import time
    InstanceAvailabilityNotification,
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
)

from hilum.adapters.dicom.requests import hold_reactor
from hilum.runtime.logs import Log
from hilum_listener.handlers import availability, commitment, mpps
from hilum_listener.handlers.attributes import PROCESSING_FAILURE, Answer, ServiceRequest
from hilum_listener.handlers.desk import Desk, Service, answer
from hilum_listener.handlers.offers import Offer, Offers
from hilum_listener.transport.event_report import accepted_syntaxes, request

_LOG = Log("hilum.listener.services")
_SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
_NO_SUCH_SOP_CLASS = 0x0118
_LOOK_S = 0.05
_HOLD_S, _ANSWER_S = 5.0, 20.0
_REPORT_MESSAGE_ID = 0xFF00

Who = Callable[[Association], tuple[str, str, str]]
Response = tuple[Dataset, Dataset | None]


def contexts() -> list[PresentationContext]:
    """What the receiving AE supports beside storage and verification, with the roles that it takes.

    Of storage commitment it is the SCP, and the SCU when another system reports what it committed (PS3.4 J.3.3).
    """
    found = []
    for sop_class in (ModalityPerformedProcedureStep, InstanceAvailabilityNotification, StorageCommitmentPushModel):
        context = PresentationContext()
        context.abstract_syntax = sop_class
        context.transfer_syntax = list(_SYNTAXES)
        if sop_class == StorageCommitmentPushModel:
            context.scu_role = context.scp_role = True
        found.append(context)
    return found


class Services:
    """Handlers for pynetdicom's events, and the thread that sends reports on associations that asked for them."""

    def __init__(self, desk: Desk, offers: Offers, who: Who) -> None:
        self._desk = desk
        self._offers = offers
        self._who = who
        self._asked: WeakValueDictionary[str, Association] = WeakValueDictionary()
        self._stop = threading.Event()

    def handlers(self) -> list[tuple[Any, Callable[[evt.Event], Response]]]:
        return [
            (evt.EVT_N_CREATE, self._create),
            (evt.EVT_N_SET, self._set),
            (evt.EVT_N_ACTION, self._action),
            (evt.EVT_N_EVENT_REPORT, self._event_report),
        ]

    def start(self) -> None:
        threading.Thread(target=self._report, name="reports", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _create(self, event: evt.Event) -> Response:
        request = event.request
        assert isinstance(request, N_CREATE)
        by_class: dict[str, Service] = {
            ModalityPerformedProcedureStep: mpps.create,
            InstanceAvailabilityNotification: availability.notify,
        }
        service = by_class.get(str(request.AffectedSOPClassUID), _no_such_class)
        named = (request.AffectedSOPClassUID, request.AffectedSOPInstanceUID)
        return self._answer(event, service, named, request.AttributeList)

    def _set(self, event: evt.Event) -> Response:
        request = event.request
        assert isinstance(request, N_SET)
        service = mpps.update if request.RequestedSOPClassUID == ModalityPerformedProcedureStep else _no_such_class
        named = (request.RequestedSOPClassUID, request.RequestedSOPInstanceUID)
        return self._answer(event, service, named, request.ModificationList)

    def _action(self, event: evt.Event) -> Response:
        request = event.request
        assert isinstance(request, N_ACTION)
        action_type = request.ActionTypeID or 0
        self._asked[self._who(event.assoc)[2]] = event.assoc
        named = (request.RequestedSOPClassUID, request.RequestedSOPInstanceUID)

        def service(asked: ServiceRequest, desk: Desk) -> Answer:
            return commitment.ask(asked, desk, action_type=action_type)

        of_class = request.RequestedSOPClassUID == StorageCommitmentPushModel
        return self._answer(event, service if of_class else _no_such_class, named, request.ActionInformation)

    def _event_report(self, event: evt.Event) -> Response:
        request = event.request
        assert isinstance(request, N_EVENT_REPORT)
        event_type = request.EventTypeID or 0
        named = (request.AffectedSOPClassUID, request.AffectedSOPInstanceUID)

        def service(told: ServiceRequest, desk: Desk) -> Answer:
            return commitment.reported(told, desk, event_type=event_type)

        of_class = request.AffectedSOPClassUID == StorageCommitmentPushModel
        return self._answer(event, service if of_class else _no_such_class, named, request.EventInformation)

    def _answer(
        self, event: evt.Event, service: Service, named: Sequence[UID | None], content: BytesIO | None
    ) -> Response:
        calling_ae, peer, identity = self._who(event.assoc)
        asked = ServiceRequest(
            sop_class_uid=str(named[0] or ""),
            sop_instance_uid=str(named[1] or ""),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            content=b"" if content is None else content.getvalue(),
            calling_ae=calling_ae,
            peer=peer,
            association=identity,
        )
        try:
            return _response(answer(service, asked, self._desk))
        except Exception as error:  # the requester gets an answer and this process goes on, as with C-STORE
            _LOG.error("request failed", association=identity, exc_info=error)
            return _response(Answer(PROCESSING_FAILURE, "an error"))

    def _report(self) -> None:
        """Takes the offers of associations that are open here, and declines those whose association has ended here."""
        while not self._stop.wait(_LOOK_S):
            if not self._asked:
                continue
            try:
                for offer in self._offers.pending():
                    association = self._asked.get(offer.association)
                    if association is not None and self._offers.take(offer.key):
                        delivered = association.is_established and self._send(association, offer)
                        self._offers.settle(offer.key, delivered=delivered)
            except Exception as error:  # the reporting role sends it on a new association
                _LOG.error("report not sent on its association", exc_info=error)

    def _send(self, association: Association, offer: Offer) -> bool:
        """What comes in while the answer is awaited is put back for the association's own thread to serve."""
        syntaxes = accepted_syntaxes(association.accepted_contexts)
        if not syntaxes or not hold_reactor(association, timeout_s=_HOLD_S):
            return False
        context_id, syntax = next(iter(syntaxes.items()))
        others = []
        try:
            association.dimse.send_msg(
                request(offer.transaction_uid, offer.report, message_id=_REPORT_MESSAGE_ID, syntax=syntax), context_id
            )
            deadline = time.monotonic() + _ANSWER_S
            while time.monotonic() < deadline and association.dul.is_alive():
                found_id, message = association.dimse.get_msg(block=False)
                if isinstance(message, N_EVENT_REPORT) and message.MessageIDBeingRespondedTo == _REPORT_MESSAGE_ID:
                    return message.Status == 0x0000
                if message is not None:
                    others.append((found_id, message))
                elif association.dul.peek_next_pdu() is not None:  # released or aborted, as its own thread will find
                    return False
                else:
                    time.sleep(0.005)
            return False
        finally:
            for item in others:
                association.dimse.msg_queue.put(item)  # type: ignore[arg-type]
            association._reactor_checkpoint.set()


def _no_such_class(_request: ServiceRequest, _desk: Desk) -> Answer:
    return Answer(_NO_SUCH_SOP_CLASS)


def _response(found: Answer) -> Response:
    """Status elements as pynetdicom takes them, with what it makes the attribute list of."""
    status = Dataset()
    status.Status = found.status
    if found.comment:
        status.ErrorComment = found.comment[:64]
    if found.error_id is not None:
        status.ErrorID = found.error_id
    if not found.sop_instance_uid:
        return status, None
    assigned = Dataset()
    assigned.add_new(0x00001000, "UI", found.sop_instance_uid)  # pynetdicom moves it to the command set
    return status, assigned
