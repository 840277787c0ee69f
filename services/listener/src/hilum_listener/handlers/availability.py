"""Instance availability notifications (PS3.4 R): which instances of a study are there to be fetched."""

from hilum.domain.identity import derive_uid
from hilum_listener.handlers.attributes import (
    DUPLICATE_SOP_INSTANCE,
    INVALID_OBJECT_INSTANCE,
    MAX_REFERENCES,
    MISSING_ATTRIBUTE,
    RESOURCE_LIMITATION,
    SUCCESS,
    Answer,
    Reference,
    Refused,
    ServiceRequest,
    attributes,
    items,
    reference,
    uid,
)
from hilum_listener.handlers.desk import Desk
from hilum_listener.handlers.notices import Kind, name_of
from hilum_listener.handlers.part10 import is_uid

_STUDY, _SERIES, _INSTANCES, _AVAILABILITY = 0x0020000D, 0x00081115, 0x00081199, 0x00080056
_THERE = frozenset({"ONLINE", "NEARLINE"})  # PS3.3 C.4.23.1.1; OFFLINE and UNAVAILABLE are not


def notify(request: ServiceRequest, desk: Desk) -> Answer:
    """N-CREATE: success only when the notification is durable (PS3.4 R.3.2).

    Raises:
        Refused: no study, or too much.
        OSError: it isn't durable.
    """
    elements = attributes(request)
    study = uid(elements, _STUDY)
    if not study:
        raise Refused(MISSING_ATTRIBUTE, "no Study Instance UID")
    if request.sop_instance_uid and not is_uid(request.sop_instance_uid):
        raise Refused(INVALID_OBJECT_INSTANCE, "not a UID")
    received_at = desk.now().isoformat(timespec="microseconds")
    assigned = derive_uid("availability", request.association, request.calling_ae, received_at)
    notice_uid = request.sop_instance_uid or assigned
    found: dict[Reference, None] = {}
    for series in items(elements, _SERIES):
        there = (item for item in items(series, _INSTANCES) if item.ascii(_AVAILABILITY) in _THERE)
        found.update((named, None) for named in map(reference, there) if all(named))
        if len(found) > MAX_REFERENCES:
            raise Refused(RESOURCE_LIMITATION, f"more than {MAX_REFERENCES} instances")
    name = name_of("availability", notice_uid)
    with desk.store.locked():
        known = desk.store.read(Kind.AVAILABILITY, name) is not None
        if not known:
            notice = {"study": study, "instances": list(found), "calling_ae": request.calling_ae, "at": received_at}
            desk.store.write(Kind.AVAILABILITY, name, notice)
    desk.note(request, Kind.AVAILABILITY, name)
    if known:
        return Answer(DUPLICATE_SOP_INSTANCE, "the notification is known")
    return SUCCESS if request.sop_instance_uid else Answer(0x0000, sop_instance_uid=assigned)
