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
from hilum_listener.handlers.part10 import file_head, is_uid
from hilum_listener.handlers.spool import Buffers, Spool, Stored, Writing

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
    """What a C-STORE request says beside the data set."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae: str
    peer: str
    association: str


class Reception:
    """The data set of one request as it arrives, as received; it is never decoded here nor held in memory.

    What a data set is worth is for the index to say. Refused is only what the clause names: no data set at all, UIDs
    that are none, or a data set that names another SOP class or instance than the request. Once refused, the rest is
    taken and dropped, since a sender reads no answer before it has sent everything.
    """

    __slots__ = ("_journal", "_now", "_refused", "_request", "_spool", "_start", "_writing", "size")

    def __init__(self, request: Request, spool: Spool, journal: JournalWriter, now: Callable[[], datetime]) -> None:
        self._request = request
        self._spool = spool
        self._journal = journal
        self._now = now
        self._writing: Writing | None = None
        self._start: bytearray | None = bytearray()
        self._refused: Status | None = None
        self.size = 0
        """Bytes of the data set so far."""
        if not (is_uid(request.sop_class_uid) and is_uid(request.sop_instance_uid)):
            self._refuse(Status.CANNOT_UNDERSTAND, "not a UID")

    def write(self, buffers: Buffers) -> None:
        """Takes the next bytes of the data set; they may change after the call."""
        self.size += sum(map(len, buffers))
        if self._refused is not None:
            return
        try:
            if self._start is not None:
                self._look(self._start, buffers)
            if self._refused is None:
                self._file().write(buffers)
        except Exception as error:
            self._fail(error)

    def finish(self) -> Status:
        """The data set is complete. Success means that file and journal entry are synced; the name is since before."""
        if self._refused is None and not self.size:
            self._refuse(Status.CANNOT_UNDERSTAND, "no data set")
        if self._refused is None and self._start is not None and _contradicts(self._request, bytes(self._start)):
            self._refuse(Status.DOES_NOT_MATCH_SOP_CLASS, "the data set names another object")
        if self._refused is not None:
            return self._refused
        try:
            self._file().commit(self._note)
        except Exception as error:
            return self._fail(error)
        return Status.SUCCESS

    def abandon(self) -> None:
        """The rest will never come: nothing of it stays."""
        if self._writing is not None:
            self._writing.abandon()

    def _file(self) -> Writing:
        if self._writing is None:
            request = self._request
            self._writing = self._spool.begin()
            head = file_head(
                sop_class_uid=request.sop_class_uid,
                sop_instance_uid=request.sop_instance_uid,
                transfer_syntax_uid=request.transfer_syntax_uid,
            )
            self._writing.write((head,))
        return self._writing

    def _look(self, start: bytearray, buffers: Buffers) -> None:
        """Judges the data set's first bytes as soon as there are enough of them."""
        for buffer in buffers:
            start += buffer[: _SCANNED_BYTES - len(start)]
            if len(start) >= _SCANNED_BYTES:
                self._start = None
                if _contradicts(self._request, bytes(start)):
                    self._refuse(Status.DOES_NOT_MATCH_SOP_CLASS, "the data set names another object")
                return

    def _note(self, stored: Stored) -> None:
        request = self._request
        self._journal.append(
            InstanceReceived(
                uri=stored.uri,
                size=stored.size,
                sop_instance_uid=request.sop_instance_uid,
                sop_class_uid=request.sop_class_uid,
                transfer_syntax_uid=request.transfer_syntax_uid,
                calling_ae=request.calling_ae,
                peer=request.peer,
                association=request.association,
                received_at=self._now(),
            )
        )

    def _fail(self, error: Exception) -> Status:
        """An answer that makes the sender keep its copy, and its association usable."""
        if not isinstance(error, OSError | MemoryError):
            _LOG.error("request failed", association=self._request.association, exc_info=error)
            return self._refuse(Status.CANNOT_UNDERSTAND, type(error).__name__)
        number = getattr(error, "errno", None)
        reason = errno.errorcode.get(number, "unknown") if number else type(error).__name__
        return self._refuse(Status.OUT_OF_RESOURCES, reason)

    def _refuse(self, status: Status, reason: str) -> Status:
        self.abandon()
        self._start = None
        self._refused = status
        _LOG.error("not stored", association=self._request.association, reason=reason, status=f"{status:04X}")
        return status


def receive(
    request: Request, dataset: memoryview, spool: Spool, journal: JournalWriter, *, now: Callable[[], datetime]
) -> Status:
    """Stores a data set that is all there."""
    reception = Reception(request, spool, journal, now)
    reception.write((dataset,))
    return reception.finish()


def _contradicts(request: Request, start: bytes) -> bool:
    """True when the first elements of the data set name another SOP class or instance than the command set."""
    if _explicit_elements(request) in start or request.transfer_syntax_uid == _DEFLATED_LE:
        return False
    big_endian = request.transfer_syntax_uid == _EXPLICIT_BE
    implicit = request.transfer_syntax_uid == _IMPLICIT_LE
    try:
        found = scan(start, 0, len(start), Encoding(implicit=implicit, big_endian=big_endian))
    except (Reject, ValueError, ArithmeticError, IndexError):
        return False
    pairs = ((_SOP_CLASS, request.sop_class_uid), (_SOP_INSTANCE, request.sop_instance_uid))
    return any(stated and stated != named for stated, named in ((found.ascii(tag), named) for tag, named in pairs))


def _explicit_elements(request: Request) -> bytes:
    """Both UIDs as they stand one after the other in nearly every data set, which spares the scan."""
    one, other = request.sop_class_uid.encode("ascii"), request.sop_instance_uid.encode("ascii")
    one, other = one + b"\0" * (len(one) % 2), other + b"\0" * (len(other) % 2)
    return b"\x08\0\x16\0UI%c\0%s\x08\0\x18\0UI%c\0%s" % (len(one), one, len(other), other)
