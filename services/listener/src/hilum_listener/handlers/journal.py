"""The journal: what was received, in order, synced before the sender is told so. The index is folded from it.

One JSON object a line, ended by a CRC-32 of what stands before it. A process writes journals of its own and never
another's; a line that a kill tore has no line feed or a wrong sum, and was never acknowledged. Lines go over zeros
that are there already, so that to sync one changes no metadata; what a journal of a killed process ends in is zeros.
"""

import contextlib
import errno
import fcntl
import json
import os
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROTATE_BYTES = 64 << 20
_AHEAD_BYTES = 1 << 20
"""So many zeros are written at a time."""
_CRC = b',"crc":"'
_TAIL = len(_CRC) + 8 + len(b'"}')


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceReceived:
    """One C-STORE whose file is durable. `size` in bytes is that of the stored file.

    `sha256` (64 hex digits) too, or it is empty: then whoever folds the entry into the index reads the file for it.
    """

    uri: str
    size: int
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    calling_ae: str
    peer: str
    association: str
    received_at: datetime
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class AssociationChanged:
    """`change` is `opened`, `released` or `aborted`."""

    change: str
    calling_ae: str
    peer: str
    association: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeReceived:
    """Something else than an instance came in; `hilum_listener.handlers.notices` has it under this kind and name.

    The same one may be journaled several times; what the notice says when it is read counts.
    """

    kind: str
    name: str
    calling_ae: str
    peer: str
    association: str
    received_at: datetime


Entry = InstanceReceived | AssociationChanged | NoticeReceived
_TYPES: dict[str, type[Entry]] = {
    "instance": InstanceReceived,
    "association": AssociationChanged,
    "notice": NoticeReceived,
}
_NAMES = {kind: name for name, kind in _TYPES.items()}
_TIMES = ("received_at", "at")


def encode(entry: Entry) -> bytes:
    """The entry as one line, line feed included."""
    kind = type(entry)
    values: dict[str, Any] = {"type": _NAMES[kind]}
    for name in kind.__slots__:
        value = getattr(entry, name)
        values[name] = value.isoformat(timespec="microseconds") if name in _TIMES else value
    body = json.dumps(values, separators=(",", ":")).encode()[:-1]
    return b'%s%s%08x"}\n' % (body, _CRC, zlib.crc32(body))


def decode(line: bytes) -> Entry | None:
    """The entry of one line without its line feed; None when the sum is wrong or the kind is not known."""
    body, tail = line[:-_TAIL], line[-_TAIL:]
    if tail != b'%s%08x"}' % (_CRC, zlib.crc32(body)):
        return None
    values = json.loads(body + b"}")
    kind = _TYPES.get(values.pop("type"))
    if kind is None:
        return None
    for name in _TIMES:
        if name in values:
            values[name] = datetime.fromisoformat(values[name])
    return kind(**values)


@dataclass(slots=True, eq=False)
class _File:
    """One journal of this process. `waiting`: appends between their write and the answer to their sync.

    `size`: bytes of lines; `room`: with the zeros behind them.
    """

    fd: int
    size: int = 0
    room: int = 0
    synced: int = 0
    waiting: int = 0
    failed: bool = False
    retired: bool = False

    def __del__(self) -> None:
        """Lets go of it as it is, as the end of the process would."""
        if self.fd >= 0:
            os.close(self.fd)


class NotJournaled(OSError):
    """The journal has no line of the entry, so nobody will look for the file that it names."""


class JournalWriter:
    """Appends entries; several threads share one sync when they append at the same time.

    Each journal is locked (flock) from before it has its name until its writer closes it or dies, so that a reader
    knows which journals can't grow any more.
    """

    def __init__(
        self, folder: Path, *, started_at: datetime, spool: str = "", rotate_bytes: int = ROTATE_BYTES
    ) -> None:
        """`spool`: the spool's name, for its listeners to know their own (`handlers.spool_name`)."""
        self._folder = folder
        self._rotate_bytes = rotate_bytes
        of_spool = f"{spool}-" if spool else ""
        self._stem = f"{started_at.astimezone(UTC):%Y%m%dT%H%M%S%f}-{of_spool}{os.getpid()}"
        self._opened = 0
        self._file: _File | None = None  # the first append opens the first one
        self._write_lock = threading.Lock()
        self._sync_lock = threading.Lock()

    def append(self, entry: Entry, *, sync: bool = True) -> None:
        """Returns when the entry is durable, or with `sync=False` when it is written.

        Raises:
            NotJournaled: nothing of it is in the journal.
            OSError: it is there, and not durable. After a failed sync the kernel forgets what it could not write and
                reports it to one thread only; so every entry of that file that isn't synced yet fails, and the next
                goes to a new file.
        """
        line = encode(entry)
        with self._write_lock:
            try:
                file = self._current()
                self._write(file, line)
            except (OSError, MemoryError) as error:
                raise NotJournaled(getattr(error, "errno", None) or errno.ENOMEM, str(error)) from error
            file.waiting += 1
            end = file.size
        try:
            if sync:
                self._sync(file, end)
        finally:
            with self._write_lock:
                file.waiting -= 1
                self._close_if_done(file)

    def close(self) -> None:
        """Lets go of the current journal; another entry would open a new one."""
        with self._write_lock:
            self._retire()

    def _current(self) -> _File:
        file = self._file
        if file is not None and not file.failed and file.size < self._rotate_bytes:
            return file
        self._retire()
        self._file = self._open()
        return self._file

    def _write(self, file: _File, line: bytes) -> None:
        """Takes the whole line, or none of it is ever read (a full disk takes a part of it)."""
        try:
            if file.size + len(line) > file.room:
                file.room += os.pwrite(file.fd, bytes(_AHEAD_BYTES), file.room)
            if os.pwrite(file.fd, line, file.size) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except BaseException:
            try:
                os.ftruncate(file.fd, file.size)
                file.room = file.size
            except OSError:
                file.failed = True
            raise
        file.size += len(line)

    def _sync(self, file: _File, end: int) -> None:
        with self._sync_lock:
            if file.synced >= end:
                return
            if file.failed:
                raise OSError(errno.EIO, "an earlier sync of this journal failed")
            target = file.size
            try:
                os.fdatasync(file.fd)
            except BaseException:
                file.failed = True
                raise
            file.synced = target

    def _open(self) -> _File:
        path = self._folder / f"{self._stem}-{self._opened:04d}.jsonl"  # names sort in the order of opening
        unnamed = path.with_suffix(".part")
        self._opened += 1
        fd = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            os.rename(unnamed, path)
            sync_folder(self._folder)
        except BaseException:
            os.close(fd)
            for left in (unnamed, path):
                with contextlib.suppress(OSError):
                    left.unlink(missing_ok=True)
            raise
        return _File(fd)

    def _retire(self) -> None:
        if self._file is not None:
            self._file.retired = True
            self._close_if_done(self._file)
            self._file = None

    def _close_if_done(self, file: _File) -> None:
        """A retired journal stays open as long as a thread may be about to sync it."""
        if file.retired and not file.waiting and file.fd >= 0:
            with contextlib.suppress(OSError):  # then it ends in zeros, as after a kill
                os.ftruncate(file.fd, file.size)
            os.close(file.fd)
            file.fd = -1


def is_growing(path: Path) -> bool:
    """True while a process that is alive may append to the journal.

    Raises:
        OSError: the journal can't be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


@dataclass(frozen=True, slots=True)
class Read:
    """Entries of one journal from a position on, each with the position behind it (bytes); None is a damaged line."""

    journal: str
    start: int
    entries: Sequence[tuple[Entry | None, int]]

    @property
    def end(self) -> int:
        return self.entries[-1][1] if self.entries else self.start


def read(path: Path, position: int, *, limit_bytes: int = 1 << 17) -> Read:
    """The whole lines behind `position` up to the zeros; a line without its line feed is left for later.

    Raises:
        OSError: the journal can't be read.
    """
    with path.open("rb") as file:
        file.seek(position)
        chunk = file.read(1)
        if chunk in (b"", b"\0"):
            return Read(path.name, position, ())
        chunk += file.read(limit_bytes)
        # a line may be longer than the limit
        while b"\n" not in chunk and b"\0" not in chunk and (more := file.read(limit_bytes)):
            chunk += more
    entries: list[tuple[Entry | None, int]] = []
    chunk, at = chunk.partition(b"\0")[0], 0
    while (end := chunk.find(b"\n", at)) >= 0:
        entries.append((decode(chunk[at:end]), position + end + 1))
        at = end + 1
    return Read(path.name, position, entries)


def sync_folder(folder: Path) -> None:
    """Makes new names in the folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
