"""The N-EVENT-REPORT of storage commitment (PS3.4 J.3.3): what it says, and sending it on a new association."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import build_context, build_role
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode

from hilum.adapters.dicom.implementation import own_entity
from hilum.adapters.dicom.requests import hold_reactor
from hilum.runtime.config import Peer, Tls
from hilum_listener.handlers.commitment import (
    ALL_COMMITTED,
    FAILURES_EXIST,
    MODEL,
    MODEL_INSTANCE,
    Delivery,
    Outgoing,
)
from hilum_listener.transport.certificates import CertificateUnusable, client_context

_CONNECT_S, _ANSWER_S = 5.0, 20.0


def information(transaction_uid: str, report: Mapping[str, Any]) -> tuple[int, Dataset]:
    """Event type and Event Information (PS3.4 table J.3-2) of a report as `commitment_requests` has it."""
    dataset = Dataset()
    dataset.TransactionUID = UID(transaction_uid)
    committed = [_item(sop_class, instance) for sop_class, instance in report["committed"]]
    failed = []
    for sop_class, instance, reason in report["failed"]:
        failed.append(_item(sop_class, instance))
        failed[-1].FailureReason = reason
    if committed:
        dataset.ReferencedSOPSequence = committed
    if failed:
        dataset.FailedSOPSequence = failed
    return (FAILURES_EXIST if failed else ALL_COMMITTED), dataset


def _item(sop_class: str, instance: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = UID(sop_class)
    item.ReferencedSOPInstanceUID = UID(instance)
    return item


def request(transaction_uid: str, report: Mapping[str, Any], *, message_id: int, syntax: UID) -> N_EVENT_REPORT:
    """The request primitive, its data set encoded in this transfer syntax."""
    event_type, dataset = information(transaction_uid, report)
    primitive = N_EVENT_REPORT()
    primitive.MessageID = message_id
    primitive.AffectedSOPClassUID = UID(MODEL)
    primitive.AffectedSOPInstanceUID = UID(MODEL_INSTANCE)
    primitive.EventTypeID = event_type
    encoded = encode(dataset, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
    if encoded is None:
        raise ValueError("the report can't be encoded")
    primitive.EventInformation = BytesIO(encoded)
    return primitive


class NewAssociation:
    """Sends a report to the requester's own port, with Hilum in the SCP role (PS3.4 J.3.3, PS3.7 D.3.3.4)."""

    def __init__(self, *, own_ae: str, tls: Tls | None = None) -> None:
        """`tls`: Hilum's own certificate, shown to peers that have one configured."""
        self._tls = tls
        self._entity = own_entity(own_ae)
        self._entity.connection_timeout = self._entity.acse_timeout = _CONNECT_S
        self._entity.dimse_timeout = self._entity.network_timeout = _ANSWER_S

    def send(self, outgoing: Outgoing, peer: Peer) -> Delivery:
        """A peer with a certificate is reached over TLS and by nobody else's certificate, or not at all."""
        if peer.host is None or peer.port is None:
            return Delivery(False, "no host and port are configured for its AE title")
        try:
            context = None if peer.certificate is None else client_context(peer.certificate, self._tls)
        except CertificateUnusable as error:
            return Delivery(False, str(error))
        association = self._entity.associate(
            peer.host,
            peer.port,
            contexts=[build_context(MODEL)],
            ae_title=peer.ae_title.strip(),
            ext_neg=[build_role(MODEL, scp_role=True)],
            tls_args=None if context is None else (context, peer.host),
        )
        if not association.is_established:
            if association.is_rejected:
                return Delivery(False, "the association was rejected")
            return Delivery(False, "no association" if context is None else "no association over TLS")
        try:
            if not association.accepted_contexts:
                return Delivery(False, "storage commitment was not accepted")
            event_type, dataset = information(outgoing.transaction_uid, outgoing.report)
            hold_reactor(association)
            answer, _reply = association.send_n_event_report(dataset, event_type, MODEL, MODEL_INSTANCE)
        except (RuntimeError, ValueError) as error:
            return Delivery(False, f"not sent: {type(error).__name__}")
        finally:
            if association.is_established:
                association.release()
        if "Status" not in answer:
            return Delivery(False, "no answer")
        return Delivery(answer.Status == 0x0000, f"status {answer.Status:04X}")


def accepted_syntaxes(contexts: Sequence[Any]) -> Mapping[int, UID]:
    """Context id and transfer syntax of each accepted context of storage commitment."""
    return {c.context_id: c.transfer_syntax[0] for c in contexts if c.abstract_syntax == MODEL}
