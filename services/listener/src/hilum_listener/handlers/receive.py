"""One C-STORE request: durable first, then the answer."""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from hilum.adapters.dicom.elements import Encoding, scan
from hilum.domain.errors import Reject
from hilum.runtime.logs import Log
from hilum_listener.handlers.journal import InstanceReceived, JournalWriter
from hilum_listener.handlers.part10 import file_head
from hilum_listener.handlers.spool import Spool

_LOG = Log("hilum.listener.scp")
_SCANNED_BYTES = 1024
_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
_IMPLICIT_LE, _EXPLICIT_BE, _DEFLATED_LE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"


class Status(IntEnum):
    """C-STORE response status (PS3.4 table B.2-1, PS3.7 annex C)."""

    SUCCESS = 0x0000
    OUT_OF_RESOURCES = 0xA700
    DOES_NOT_MATCH_SOP_CLASS = 0xA900
    CANNOT_UNDERSTAND = 0xC000


@dataclass(frozen=True, slots=True)
class Request:
    """What a C-STORE request says beside the data set. `dataset` is the encoded data set, as received."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    dataset: memoryview
    calling_ae: str
    peer: str
    association: str


def receive(request: Request, spool: Spool, journal: JournalWriter, *, now: Callable[[], datetime]) -> Status:
    """Stores the file, then journals it; Success means that both are synced.

    A data set that can't be read is stored all the same: what it is worth is for the index to say. Refused is only
    what the clause names: no data set at all, or one that names another SOP class or instance than the request.
    """
    if not len(request.dataset):
        return Status.CANNOT_UNDERSTAND
    if _contradicts(request):
        return Status.DOES_NOT_MATCH_SOP_CLASS
    head = file_head(
        sop_class_uid=request.sop_class_uid,
        sop_instance_uid=request.sop_instance_uid,
        transfer_syntax_uid=request.transfer_syntax_uid,
    )
    try:
        stored = spool.store(request.sop_instance_uid, (head, request.dataset))
        journal.append(
            InstanceReceived(
                uri=stored.uri,
                size=stored.size,
                sop_instance_uid=request.sop_instance_uid,
                sop_class_uid=request.sop_class_uid,
                transfer_syntax_uid=request.transfer_syntax_uid,
                calling_ae=request.calling_ae,
                peer=request.peer,
                association=request.association,
                received_at=now(),
            )
        )
    except (OSError, MemoryError) as error:
        number = getattr(error, "errno", None)
        reason = errno.errorcode.get(number, "unknown") if number else str(type(error).__name__)
        _LOG.error("not stored", association=request.association, reason=reason, status="A700")
        return Status.OUT_OF_RESOURCES
    return Status.SUCCESS


def _contradicts(request: Request) -> bool:
    """True when the first elements of the data set name another SOP class or instance than the command set."""
    if request.transfer_syntax_uid == _DEFLATED_LE:
        return False
    start = bytes(request.dataset[:_SCANNED_BYTES])
    big_endian = request.transfer_syntax_uid == _EXPLICIT_BE
    implicit = request.transfer_syntax_uid == _IMPLICIT_LE
    try:
        found = scan(start, 0, len(start), Encoding(implicit=implicit, big_endian=big_endian))
    except (Reject, ValueError, ArithmeticError, IndexError):
        return False
    pairs = ((_SOP_CLASS, request.sop_class_uid), (_SOP_INSTANCE, request.sop_instance_uid))
    return any(stated and stated != named for stated, named in ((found.ascii(tag), named) for tag, named in pairs))
