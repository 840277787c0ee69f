"""Modality performed procedure steps (PS3.4 F.7): what a modality says that it does, does not, or has done."""

from typing import Any

from hilum.adapters.dicom.elements import Elements
from hilum.domain.identity import derive_uid
from hilum.domain.study import StepStatus
from hilum_listener.handlers.attributes import (
    DUPLICATE_SOP_INSTANCE,
    INVALID_ATTRIBUTE_VALUE,
    INVALID_OBJECT_INSTANCE,
    MAX_REFERENCES,
    MISSING_ATTRIBUTE,
    NO_SUCH_SOP_INSTANCE,
    PROCESSING_FAILURE,
    RESOURCE_LIMITATION,
    SUCCESS,
    Answer,
    Reference,
    Refused,
    ServiceRequest,
    attributes,
    items,
    references,
    uid,
)
from hilum_listener.handlers.desk import Desk
from hilum_listener.handlers.notices import Kind, name_of
from hilum_listener.handlers.part10 import is_uid

_STATUS = 0x00400252
_SCHEDULED_STEPS, _STUDY = 0x00400270, 0x0020000D
_PERFORMED_SERIES, _IMAGES = 0x00400340, 0x00081140
_DISCONTINUATION_REASON, _CODE_VALUE, _CODE_SCHEME = 0x00400281, 0x00080100, 0x00080102
_MAX_STUDIES = 16
_NO_LONGER_UPDATED = 0xA710  # PS3.4 F.7.2.2.3: the Error ID of such a processing failure

DISCONTINUATION_REASONS = {
    # PS3.16 CID 9300, codes of scheme DCM
    "110500": "Doctor canceled procedure",
    "110501": "Equipment failure",
    "110502": "Incorrect procedure ordered",
    "110503": "Patient allergic to media/contrast",
    "110504": "Patient died",
    "110505": "Patient refused to continue procedure",
    "110506": "Patient taken for treatment or surgery",
    "110507": "Patient did not arrive",
    "110508": "Patient pregnant",
    "110509": "Change of procedure for correct charging",
    "110510": "Duplicate order",
    "110511": "Nursing unit cancel",
    "110512": "Incorrect side ordered",
    "110513": "Discontinued for unspecified reason",
    "110514": "Incorrect worklist entry selected",
    "110515": "Patient condition prevented continuing",
    "110516": "Equipment change",
}
"""Only these words reach the ledger: a meaning that a sender writes itself could hold anything."""


def create(request: ServiceRequest, desk: Desk) -> Answer:
    """N-CREATE: a step begins. Success only when that is durable (PS3.4 F.7.2.1).

    Raises:
        Refused: it says too little, or something that a new step can't be.
        OSError: it isn't durable.
    """
    elements = attributes(request)
    if _status(elements) is not StepStatus.IN_PROGRESS:
        raise Refused(INVALID_ATTRIBUTE_VALUE, "a new step is IN PROGRESS")
    studies = sorted({uid(item, _STUDY) for item in items(elements, _SCHEDULED_STEPS)} - {""})
    if not studies:
        raise Refused(MISSING_ATTRIBUTE, "no Study Instance UID")
    if len(studies) > _MAX_STUDIES:
        raise Refused(RESOURCE_LIMITATION, f"more than {_MAX_STUDIES} studies")
    given = request.sop_instance_uid
    if given and not is_uid(given):
        raise Refused(INVALID_OBJECT_INSTANCE, "not a UID")
    started_at = desk.now().isoformat(timespec="microseconds")
    # PS3.7 10.1.5.1.4: the performer assigns one when the invoker gave none
    step_uid = given or derive_uid("procedure-step", request.association, request.calling_ae, started_at)
    name = name_of("step", step_uid)
    with desk.store.locked():
        known = desk.store.read(Kind.STEP, name) is not None
        if not known:
            step = {
                "step_uid": step_uid,
                "studies": studies,
                "status": StepStatus.IN_PROGRESS.value,
                "reason": "",
                "instances": _instances(elements),
                "calling_ae": request.calling_ae,
                "started_at": started_at,
            }
            desk.store.write(Kind.STEP, name, step)
    # also for a known one: a kill may have come between its file and its journal entry
    desk.note(request, Kind.STEP, name)
    if known:
        return Answer(DUPLICATE_SOP_INSTANCE, "the step exists")
    return SUCCESS if given else Answer(0x0000, sop_instance_uid=step_uid)


def update(request: ServiceRequest, desk: Desk) -> Answer:
    """N-SET: a step goes on or ends. Success only when that is durable (PS3.4 F.7.2.2).

    Raises:
        Refused: there is no such step, it has ended, or the status is none.
        OSError: it isn't durable.
    """
    elements = attributes(request)
    status = _status(elements) if _STATUS in elements.by_tag else None
    name = name_of("step", request.sop_instance_uid)
    with desk.store.locked():
        known = desk.store.read(Kind.STEP, name)
        if known is None:
            raise Refused(NO_SUCH_SOP_INSTANCE, "no such step")
        ended = known["status"] != StepStatus.IN_PROGRESS.value
        if not ended:
            desk.store.write(Kind.STEP, name, {**known, **_changes(elements, status)})
    desk.note(request, Kind.STEP, name)  # also for one that ended, as in `create`
    if ended:
        return Answer(PROCESSING_FAILURE, "the step may no longer be updated", error_id=_NO_LONGER_UPDATED)
    return SUCCESS


def _status(elements: Elements) -> StepStatus:
    try:
        return StepStatus(elements.ascii(_STATUS))
    except ValueError as error:
        raise Refused(
            INVALID_ATTRIBUTE_VALUE if _STATUS in elements.by_tag else MISSING_ATTRIBUTE,
            "Performed Procedure Step Status is not IN PROGRESS, COMPLETED or DISCONTINUED",
        ) from error


def _changes(elements: Elements, status: StepStatus | None) -> dict[str, Any]:
    """A sequence that is sent replaces the one that was there as a whole (PS3.4 F.7.2.2.2)."""
    changes: dict[str, Any] = {}
    if status is not None:
        changes["status"] = status.value
    if _PERFORMED_SERIES in elements.by_tag:
        changes["instances"] = _instances(elements)
    if status is StepStatus.DISCONTINUED:
        changes["reason"] = next((_reason(item) for item in items(elements, _DISCONTINUATION_REASON)), "")
    return changes


def _instances(elements: Elements) -> list[Reference]:
    """The images of the performed series. What they list beside images is not waited for."""
    found: dict[Reference, None] = {}
    for series in items(elements, _PERFORMED_SERIES):
        found.update(dict.fromkeys(references(series, _IMAGES)))
        if len(found) > MAX_REFERENCES:
            raise Refused(RESOURCE_LIMITATION, f"more than {MAX_REFERENCES} images")
    return list(found)


def _reason(item: Elements) -> str:
    if item.ascii(_CODE_SCHEME) != "DCM":
        return ""
    return DISCONTINUATION_REASONS.get(item.ascii(_CODE_VALUE), "")
