"""The spool: each received instance is one file, whole and synced, or nobody was told of it."""

import contextlib
import errno
import fcntl
import itertools
import os
import secrets
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hilum.adapters.folder import SCHEME
from hilum_listener.handlers.journal import NotJournaled, sync_folder
from hilum_listener.handlers.spool_name import spool_name
from hilum_listener.settings import Places

Buffers = Sequence[bytes | bytearray | memoryview]
_MAX_VECTORS = 1024
"""IOV_MAX of Linux."""
_AHEAD = 64
"""Names that one sync of their folder makes durable before anyone needs them."""
_IN_A_ROW = 16
"""So often names are made in one folder before it is the next one's turn."""


class SpoolFull(OSError):
    """Less free space is left than the site wants to keep."""


@dataclass(frozen=True, slots=True)
class Stored:
    """`size` in bytes is that of the whole file."""

    uri: str
    size: int


Journal = Callable[[Stored], None]


class Spool:
    """Writes below `spool/`; the folder's layout is that of `hilum.adapters.folder`.

    Every request gets a file of its own, so nothing is ever overwritten: the name is this run's number (the spool's
    name, then chance) and one that counts up, so it says nothing about what is inside. Which files hold the same bytes
    is for the index to say.

    Names are made ahead, empty, and their folder synced before the first byte goes into one: what is left to sync for
    an instance are its data and its journal entry. `runs/` has a file that is locked as long as the run lives, from
    before its first name: what a dead run left behind is found by it (`handlers.leftovers`).
    """

    def __init__(self, places: Places, *, min_free_bytes: int) -> None:
        self._places = places
        self._root = str(places.spool)
        self._incoming = places.incoming
        self._min_free_bytes = min_free_bytes
        self._lock = threading.Lock()
        self._ahead: deque[tuple[int, str]] = deque()
        self._rounds = itertools.count()
        self._run, self._pid, self._marker = "", 0, -1
        self._numbers = itertools.count(1)
        for folder in (places.spool, places.incoming, places.journal, places.runs):
            folder.mkdir(parents=True, exist_ok=True)
            sync_folder(folder.parent)
        for number in range(256):
            (places.spool / f"{number:02x}").mkdir(exist_ok=True)
        sync_folder(places.spool)
        self._name = spool_name(places.spool)

    def clean(self) -> int:
        """Removes what a kill left half-written in `incoming`. Returns how many files."""
        left = list(self._incoming.iterdir())
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def begin(self) -> "Writing":
        """A new, empty file.

        Raises:
            OSError: the disk is full or can't be written; `SpoolFull` below the free space to keep.
        """
        self.check_space()
        if self._pid != os.getpid():  # a fork inherits the names, and must not take them
            self.prepare()
        while True:
            try:
                fd, key = self._ahead.popleft()
            except IndexError:
                self.prepare()
            else:
                return Writing(self._root, fd, key)

    def store(self, parts: Buffers) -> Stored:
        """Makes a file of the parts durable.

        Raises:
            OSError: it isn't stored (disk full, read-only, below the free space to keep). Nothing half-written stays.
        """
        writing = self.begin()
        writing.write(parts)
        return writing.commit()

    def check_space(self) -> None:
        """Raises `SpoolFull` below the free space to keep, another OSError when nobody can say."""
        space = os.statvfs(self._root)
        if space.f_bavail * space.f_frsize < self._min_free_bytes:
            raise SpoolFull(errno.ENOSPC, "less free space than the site keeps")

    def prepare(self) -> None:
        """Makes names ahead, unless there are some.

        Raises:
            OSError: it can't. Names whose folder could not be synced are removed and never used, since a later sync of
                the folder may succeed without them.
        """
        with self._lock:
            if self._pid != os.getpid():
                self._begin_run()
            if self._ahead:
                return
            folder = f"{(int(self._run[:2], 16) + next(self._rounds) // _IN_A_ROW) % 256:02x}"
            made: list[tuple[int, str]] = []
            try:
                for _ in range(_AHEAD):
                    key = f"{folder}/{self._run}-{next(self._numbers):016x}.dcm"
                    made.append((os.open(f"{self._root}/{key}", _NEW, 0o640), key))
                sync_folder(self._places.spool / folder)
            except BaseException:
                _remove(self._root, made)
                raise
            self._ahead.extend(made)

    def close(self) -> None:
        """Removes the names that nobody used."""
        with self._lock:
            if self._pid == os.getpid():
                left, self._ahead = list(self._ahead), deque()
                _remove(self._root, left)

    def let_go(self) -> None:
        """Closes what is open, as a kill would: the names stay for the sweep, and nothing locks the run any more."""
        for fd in (self._marker, *(fd for fd, _ in self._ahead)):
            if fd >= 0:
                os.close(fd)
        self._ahead.clear()
        self._marker = -1

    def __del__(self) -> None:
        self.let_go()

    def _begin_run(self) -> None:
        run = self._name + secrets.token_hex(4)
        path = self._places.runs / run
        marker = os.open(path, _NEW, 0o640)
        try:
            fcntl.flock(marker, fcntl.LOCK_EX)
            sync_folder(self._places.runs)
        except BaseException:
            os.close(marker)
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        self.let_go()  # a parent's, which go on without this process
        self._run, self._pid, self._marker = run, os.getpid(), marker


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def _remove(root: str, made: Sequence[tuple[int, str]]) -> None:
    """Raises nothing: what stays is empty, and no one was told of it."""
    for fd, key in made:
        with contextlib.suppress(OSError):
            os.close(fd)
        with contextlib.suppress(OSError):
            os.unlink(f"{root}/{key}")


class Writing:
    """A file that is being received. Ends with `commit` or `abandon`; whichever call fails abandons it."""

    __slots__ = ("_fd", "_key", "_root", "size")

    def __init__(self, root: str, fd: int, key: str) -> None:
        self._root, self._fd, self._key = root, fd, key
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

    def commit(self, journal: Journal | None = None) -> Stored:
        """Returns when the data are durable and `journal`, which is called then and syncs an entry, has returned.

        Raises:
            OSError: they aren't, or it raised. Nothing of the file stays, unless an entry may name it.
        """
        stored = Stored(SCHEME + self._key, self.size)
        try:
            os.fdatasync(self._fd)
        except BaseException:
            self.abandon()
            raise
        try:
            if journal is not None:
                journal(stored)
        except NotJournaled:
            self.abandon()
            raise
        finally:
            self._close()  # after any other error the entry may be read, and the file must stay
        return stored

    def abandon(self) -> None:
        """Removes what was written; does nothing when it is gone or committed already. Raises nothing."""
        if self._fd >= 0:
            self._close()
            with contextlib.suppress(OSError):
                os.unlink(f"{self._root}/{self._key}")

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with contextlib.suppress(OSError):  # what it held is synced, or given up
                os.close(fd)


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
