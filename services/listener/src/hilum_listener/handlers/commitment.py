"""Storage commitment, push model (PS3.4 J): what the receiving process takes in.

An N-ACTION asks Hilum to answer for instances; what the answer is, the index knows (`verdicts`). An N-EVENT-REPORT says
what another system answers for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hilum.adapters.dicom.elements import Elements
from hilum_listener.handlers.attributes import (
    INVALID_ARGUMENT_VALUE,
    NO_SUCH_SOP_INSTANCE,
    PROCESSING_FAILURE,
    SUCCESS,
    Answer,
    Refused,
    ServiceRequest,
    attributes,
    items,
    reference,
    references,
    uid,
)
from hilum_listener.handlers.desk import Desk
from hilum_listener.handlers.notices import Kind, name_of

MODEL, MODEL_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
ALL_COMMITTED, FAILURES_EXIST = 1, 2  # event types, PS3.4 table J.3-2
NO_SUCH_ACTION, NO_SUCH_EVENT_TYPE = 0x0123, 0x0113
_REQUEST_COMMITMENT = 1  # the action type, PS3.4 J.3.2
_TRANSACTION, _INSTANCES, _FAILED, _FAILURE_REASON = 0x00081195, 0x00081199, 0x00081198, 0x00081197


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A claimed report. `token` fences: an attempt that was given up can't settle a later one."""

    notice: str
    transaction_uid: str
    calling_ae: str
    association: str
    report: Mapping[str, Any]
    attempts: int
    token: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """Whether the requester acknowledged the report, and if not, why."""

    delivered: bool
    reason: str = ""


def ask(request: ServiceRequest, desk: Desk, *, action_type: int) -> Answer:
    """N-ACTION: success only when the request is durable; the report follows (PS3.4 J.3.2).

    Raises:
        Refused: another action, no transaction or no instance, or a transaction that asked for others.
        OSError: it isn't durable.
    """
    if request.sop_instance_uid != MODEL_INSTANCE:
        raise Refused(NO_SUCH_SOP_INSTANCE, "not the well-known instance")
    if action_type != _REQUEST_COMMITMENT:
        raise Refused(NO_SUCH_ACTION, "not a request for commitment")
    elements = attributes(request)
    content: dict[str, Any] = {
        "transaction_uid": _transaction(elements),
        # in the order asked and each once, so that the report can be compared with the request
        "instances": [list(named) for named in references(elements, _INSTANCES)],
        "calling_ae": request.calling_ae,
    }
    if not content["instances"]:
        raise Refused(INVALID_ARGUMENT_VALUE, "no instance is named")
    name = name_of("commitment", request.calling_ae, content["transaction_uid"])
    with desk.store.locked():
        known = desk.store.read(Kind.COMMITMENT, name)
        if known is None:
            desk.store.write(Kind.COMMITMENT, name, content)
    if known is not None and known != content:
        raise Refused(PROCESSING_FAILURE, "the transaction asked for other instances before")
    desk.note(request, Kind.COMMITMENT, name)
    return SUCCESS


def reported(request: ServiceRequest, desk: Desk, *, event_type: int) -> Answer:
    """N-EVENT-REPORT of another system: success only when it is durable (PS3.4 J.3.3).

    Raises:
        Refused: another event, or no transaction.
        OSError: it isn't durable.
    """
    if request.sop_instance_uid != MODEL_INSTANCE:
        raise Refused(NO_SUCH_SOP_INSTANCE, "not the well-known instance")
    if event_type not in (ALL_COMMITTED, FAILURES_EXIST):
        raise Refused(NO_SUCH_EVENT_TYPE, "not an event of storage commitment")
    elements = attributes(request)
    transaction = _transaction(elements)
    failed = [
        [*reference(item), item.unsigned(_FAILURE_REASON) or PROCESSING_FAILURE] for item in items(elements, _FAILED)
    ]
    content = {
        "transaction_uid": transaction,
        "committed": references(elements, _INSTANCES),
        "failed": [item for item in failed if item[0] and item[1]],
        "calling_ae": request.calling_ae,
    }
    name = name_of("report", request.calling_ae, transaction)
    with desk.store.locked():
        desk.store.write(Kind.REPORT, name, content)
    desk.note(request, Kind.REPORT, name)
    return SUCCESS


def _transaction(elements: Elements) -> str:
    transaction = uid(elements, _TRANSACTION)
    if not transaction:
        raise Refused(INVALID_ARGUMENT_VALUE, "no Transaction UID")
    return transaction
