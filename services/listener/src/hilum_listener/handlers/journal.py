"""The journal: what was received, in order, synced before the sender is told so. The index is folded from it.

One JSON object a line, ended by a CRC-32 of what stands before it. A process writes journals of its own and never
another's; a line that a kill tore has no line feed or a wrong sum, and was never acknowledged.
"""

import json
import os
import threading
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_CRC = b',"crc":"'
_TAIL = len(_CRC) + 8 + len(b'"}')


@dataclass(frozen=True, slots=True)
class InstanceReceived:
    """One C-STORE whose file is durable. `size` in bytes and `sha256` (64 hex digits) are those of the stored file."""

    uri: str
    sha256: str
    size: int
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    calling_ae: str
    peer: str
    association: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class AssociationChanged:
    """`change` is `opened`, `released` or `aborted`."""

    change: str
    calling_ae: str
    peer: str
    association: str
    at: datetime


Entry = InstanceReceived | AssociationChanged
_TYPES: dict[str, type[Entry]] = {"instance": InstanceReceived, "association": AssociationChanged}
_NAMES = {kind: name for name, kind in _TYPES.items()}
_TIMES = ("received_at", "at")


def encode(entry: Entry) -> bytes:
    """The entry as one line, line feed included."""
    values: dict[str, Any] = {"type": _NAMES[type(entry)], **asdict(entry)}
    for name in _TIMES:
        if name in values:
            values[name] = values[name].isoformat(timespec="microseconds")
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


class JournalWriter:
    """Appends entries; several threads share one sync when they append at the same time."""

    def __init__(self, folder: Path, *, started_at: datetime) -> None:
        self._folder = folder
        self._stem = f"{started_at.astimezone(UTC):%Y%m%dT%H%M%S%f}-{os.getpid()}"
        self._opened = 0
        self._fd = -1
        self._broken = True  # the first append opens the first file
        self._write_lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self._written = 0
        self._synced = 0

    def append(self, entry: Entry, *, sync: bool = True) -> None:
        """Returns when the entry is durable, or with `sync=False` when it is written.

        Raises:
            OSError: it isn't. The next entry goes to a new file, since nobody knows what this one holds (after a
                failed sync the kernel forgets what it could not write).
        """
        line = encode(entry)
        with self._write_lock:
            if self._broken:
                self._open()
            fd = self._fd
            try:
                if os.write(fd, line) != len(line):
                    raise OSError("the journal took a part of a line")
            except OSError:
                self._broken = True
                raise
            self._written += 1
            mine = self._written
        if sync:
            self._sync(mine, fd)

    def _sync(self, mine: int, fd: int) -> None:
        with self._sync_lock:
            if fd == self._fd and self._synced >= mine:
                return
            target = self._written
            try:
                os.fdatasync(fd)
            except OSError:
                self._broken = True
                raise
            if fd == self._fd:
                self._synced = target

    def _open(self) -> None:
        """A new file; the old descriptor stays open, since a thread may be about to sync it."""
        suffix = f"-{self._opened}" if self._opened else ""
        path = self._folder / f"{self._stem}{suffix}.jsonl"
        self._opened += 1
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o640)
        with self._sync_lock:
            self._fd = fd
            self._synced = self._written
        sync_folder(self._folder)
        self._broken = False


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
    """The whole lines behind `position`; a line without its line feed is left for later.

    Raises:
        OSError: the journal can't be read.
    """
    with path.open("rb") as file:
        file.seek(position)
        chunk = file.read(limit_bytes)
    entries: list[tuple[Entry | None, int]] = []
    at = 0
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
