"""The spool: each received instance is one file, whole and synced or not there at all."""

import contextlib
import errno
import hashlib
import itertools
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hilum.adapters.folder import SCHEME
from hilum_listener.handlers.journal import NotJournaled, sync_folder
from hilum_listener.settings import Places

Buffers = Sequence[bytes | bytearray | memoryview]
_MAX_VECTORS = 1024
"""IOV_MAX of Linux."""


class SpoolFull(OSError):
    """Less free space is left than the site wants to keep."""


@dataclass(frozen=True, slots=True)
class Stored:
    """`size` in bytes is that of the whole file."""

    uri: str
    size: int


Journal = Callable[[Stored], None]


class Spool:
    """Writes below `spool/`. Paths come from digests; the folder's layout is that of `hilum.adapters.folder`.

    Every request gets a file of its own, so nothing is ever overwritten: the name is a digest of the SOP Instance UID
    and a number that no other process and no later run takes. Which files hold the same bytes is for the index to say.
    """

    def __init__(self, places: Places, *, min_free_bytes: int) -> None:
        self._root = places.spool
        self._incoming = places.incoming
        self._min_free_bytes = min_free_bytes
        self._numbers = itertools.count(1)
        self._run = secrets.token_hex(8)
        self._run_pid = os.getpid()
        for folder in (places.spool, places.incoming, places.journal):
            folder.mkdir(parents=True, exist_ok=True)
            sync_folder(folder.parent)
        self._folders = {name: _Folder(self._root / name) for name in map("{:02x}".format, range(256))}
        for sharded in self._folders.values():
            sharded.path.mkdir(exist_ok=True)
        sync_folder(self._root)

    def clean(self) -> int:
        """Removes what a kill left half-written; none of it was acknowledged. Returns how many files."""
        left = list(self._incoming.iterdir())
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def begin(self) -> "Writing":
        """A new, unnamed file.

        Raises:
            OSError: the disk is full or can't be written; `SpoolFull` below the free space to keep.
        """
        self.check_space()
        run, number = self._number()
        return Writing(self, f"{self._incoming}/{run}{number:08x}.part")

    def store(self, sop_instance_uid: str, parts: Buffers) -> Stored:
        """Makes a file of the parts durable: data, then its name.

        Raises:
            OSError: it isn't stored (disk full, read-only, below the free space to keep). Nothing half-written stays.
        """
        writing = self.begin()
        writing.write(parts)
        return writing.commit(sop_instance_uid)

    def discard(self, stored: Stored) -> None:
        """Removes a file that no journal names. Raises nothing: what stays is never acknowledged."""
        with contextlib.suppress(OSError):
            os.unlink(f"{self._root}/{stored.uri.removeprefix(SCHEME)}")

    def check_space(self) -> None:
        """Raises `SpoolFull` below the free space to keep, another OSError when nobody can say."""
        space = os.statvfs(self._root)
        if space.f_bavail * space.f_frsize < self._min_free_bytes:
            raise SpoolFull(errno.ENOSPC, "less free space than the site keeps")

    def _number(self) -> tuple[str, int]:
        if self._run_pid != os.getpid():  # a fork inherits the run, and must not take the same numbers
            self._run, self._run_pid = secrets.token_hex(8), os.getpid()
        return self._run, next(self._numbers)

    def _keep(self, temporary: str, sop_instance_uid: str, size: int, journal: Journal | None) -> Stored:
        """Gives the synced file its name and syncs that."""
        run, number = self._number()
        digest = hashlib.sha256(sop_instance_uid.encode("utf-8", "surrogatepass")).hexdigest()[:40]
        folder, key = digest[:2], f"{digest[:2]}/{digest}-{run}{number:08x}.dcm"
        stored = Stored(SCHEME + key, size)
        os.rename(temporary, f"{self._root}/{key}")
        try:
            if journal is not None:
                journal(stored)
            self._folders[folder].sync()
        except OSError as error:
            if journal is None or isinstance(error, NotJournaled):
                self.discard(stored)  # else the entry may be read, and the file must stay
            raise
        return stored


class Writing:
    """A file that is being received. Ends with `commit` or `abandon`; whichever call fails abandons it."""

    __slots__ = ("_fd", "_spool", "_temporary", "size")

    def __init__(self, spool: Spool, temporary: str) -> None:
        self._spool = spool
        self._temporary = temporary
        self._fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        self.size = 0
        """Bytes written so far."""

    def write(self, buffers: Buffers) -> None:
        """Appends all of them.

        Raises:
            OSError: it can't; nothing of the file stays.
        """
        try:
            self.size += _write_all(self._fd, buffers)
        except BaseException:
            self.abandon()
            raise

    def commit(self, sop_instance_uid: str, journal: Journal | None = None) -> Stored:
        """Returns when the data and then the name are durable.

        `journal` is called when the file has its name, before that is synced, and syncs an entry: one commit of the
        file system's journal can then hold both. After a power cut on a file system that
        keeps no order the entry may name a file that isn't there; nobody was told that it is.

        Raises:
            OSError: they aren't. Nothing of the file stays, unless an entry may name it.
        """
        try:
            os.fdatasync(self._fd)
            self._close()
            return self._spool._keep(self._temporary, sop_instance_uid, self.size, journal)
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Removes what was written; does nothing when it is gone already. Raises nothing."""
        with contextlib.suppress(OSError):
            self._close()
        with contextlib.suppress(OSError):
            os.unlink(self._temporary)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class _Folder:
    """Syncs new names; threads that ask while a sync runs share the next one."""

    __slots__ = ("_asked", "_done", "_lock", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._asked = itertools.count(1)
        self._done = 0

    def sync(self) -> None:
        mine = next(self._asked)
        with self._lock:
            if self._done >= mine:
                return
            target = next(self._asked)  # whoever asked before this renamed before this
            sync_folder(self.path)
            self._done = target


def _write_all(fd: int, buffers: Buffers) -> int:
    """Returns the number of bytes."""
    left = [memoryview(buffer) for buffer in buffers if len(buffer)]
    size = rest = sum(map(len, left))
    while rest:
        done = os.writev(fd, left[:_MAX_VECTORS])
        rest -= done
        if rest:
            whole = 0
            while done >= len(left[whole]):
                done -= len(left[whole])
                whole += 1
            left = [left[whole][done:], *left[whole + 1 :]]
    return size
