"""The normalized services beside storage: procedure steps, availability, storage commitment (PS3.4 F, R, J)."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import N_EVENT_REPORT_RQ
from pynetdicom.dimse_primitives import N_ACTION, N_CREATE, N_EVENT_REPORT, N_SET
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import time
    InstanceAvailabilityNotification,
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
)

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
_ANSWER_S = 20.0
_REST_S, _REST_WITHIN_S = 0.05, 5.0
_PDV_HEADER = 6  # PS3.8 9.3.5.1: item length, context id, message control header
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
        self._replies: WeakKeyDictionary[Association, queue.SimpleQueue[N_EVENT_REPORT]] = WeakKeyDictionary()
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
        if event.assoc not in self._replies:
            self._replies[event.assoc] = _divert(event.assoc)
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
                        delivered = False
                        try:
                            delivered = association.is_established and self._send(association, offer)
                        finally:
                            self._offers.settle(offer.key, delivered=delivered)
            except Exception as error:  # the reporting role sends it on a new association
                _LOG.error("report not sent on its association", exc_info=error)

    def _send(self, association: Association, offer: Offer) -> bool:
        """Sends between two requests of the peer's, which need not expect anything else while it awaits a response."""
        syntaxes = accepted_syntaxes(association.accepted_contexts)
        replies = self._replies.get(association)
        if not syntaxes or replies is None or not _comes_to_rest(association):
            return False
        context_id, syntax = next(iter(syntaxes.items()))
        primitive = request(offer.transaction_uid, offer.report, message_id=_REPORT_MESSAGE_ID, syntax=syntax)
        for part in _at_once(primitive, context_id, association.dimse.maximum_pdu_size):
            association.dul.send_pdu(part)
        deadline = time.monotonic() + _ANSWER_S
        while time.monotonic() < deadline and association.is_established:
            with suppress(queue.Empty):
                return replies.get(timeout=_LOOK_S).Status == 0x0000
        return False


def _divert(association: Association) -> "queue.SimpleQueue[N_EVENT_REPORT]":
    """From now on responses to reports come here: the association's own thread takes every message for a request."""
    replies: queue.SimpleQueue[N_EVENT_REPORT] = queue.SimpleQueue()
    put = association.dimse.msg_queue.put

    def sort(item: Any, block: bool = True, timeout: float | None = None) -> None:
        if isinstance(item[1], N_EVENT_REPORT) and item[1].MessageIDBeingRespondedTo is not None:
            replies.put(item[1])
        else:
            put(item, block, timeout)

    association.dimse.msg_queue.put = sort  # type: ignore[method-assign]
    return replies


def _comes_to_rest(association: Association) -> bool:
    """True once no request of the peer's has been served for a moment."""
    deadline = time.monotonic() + _REST_WITHIN_S
    resting_since: float | None = None
    while (now := time.monotonic()) < deadline and association.is_established:
        # None while a C-STORE is received (transport.fast)
        resting = getattr(association, "quiet_since", now) is not None and _is_idle(association)
        resting_since = (resting_since or now) if resting else None
        if resting_since is not None and now - resting_since >= _REST_S:
            return True
        time.sleep(0.01)
    return False


def _is_idle(association: Association) -> bool:
    return association.dimse.message is None and association.dimse.msg_queue.empty()


def _at_once(primitive: N_EVENT_REPORT, context_id: int, max_pdu: int) -> Iterator[P_DATA]:
    """The message as one P-DATA where it fits: nothing that another thread sends can come between its fragments."""
    message = N_EVENT_REPORT_RQ()
    message.primitive_to_message(primitive)
    parts = list(message.encode_msg(context_id, max_pdu))
    values = [value for part in parts for value in part.presentation_data_value_list]
    if max_pdu and sum(len(value) + _PDV_HEADER for _, value in values) > max_pdu:
        yield from parts
        return
    whole = P_DATA()
    whole.presentation_data_value_list.extend(values)
    yield whole


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
