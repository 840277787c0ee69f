"""The spool: each received instance is one file, whole and synced or not there at all."""

import hashlib
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hilum.adapters.folder import SCHEME
from hilum_listener.handlers.journal import sync_folder
from hilum_listener.settings import Places


class SpoolFull(OSError):
    """Less free space is left than the site wants to keep."""


@dataclass(frozen=True, slots=True)
class Stored:
    """`size` in bytes and `sha256` (64 hex digits) are those of the whole file."""

    uri: str
    sha256: str
    size: int


class Spool:
    """Writes below `spool/`. Paths come from digests; the folder's layout is that of `hilum.adapters.folder`."""

    def __init__(self, places: Places, *, min_free_bytes: int) -> None:
        self._root = places.spool
        self._incoming = places.incoming
        self._min_free_bytes = min_free_bytes
        self._numbers = itertools.count(1)
        self._known: set[str] = set()
        for folder in (places.spool, places.incoming, places.journal):
            folder.mkdir(parents=True, exist_ok=True)
            sync_folder(folder.parent)

    def clean(self) -> int:
        """Removes what a kill left half-written; none of it was acknowledged. Returns how many files."""
        left = list(self._incoming.iterdir())
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def store(self, sop_instance_uid: str, parts: Sequence[bytes | memoryview]) -> Stored:
        """Makes a file of the parts durable: data, then its name. The same bytes again change nothing.

        Raises:
            OSError: it isn't stored (disk full, read-only, below the free space to keep). Nothing half-written stays.
        """
        self._check_space()
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        sha256 = digest.hexdigest()
        name = f"{hashlib.sha256(sop_instance_uid.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}-{sha256[:40]}.dcm"
        folder = name[:2]
        path = self._root / folder / name
        size = sum(len(part) for part in parts)
        self._ensure(folder)
        if not (path.exists() and path.stat().st_size == size):
            self._write(path, parts)
        # also when the file was there: the process before may have been killed between its rename and this
        sync_folder(path.parent)
        return Stored(f"{SCHEME}{folder}/{name}", sha256, size)

    def _write(self, path: Path, parts: Sequence[bytes | memoryview]) -> None:
        temporary = self._incoming / f"{os.getpid()}-{next(self._numbers)}.part"
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
            try:
                _write_all(fd, parts)
                os.fdatasync(fd)
            finally:
                os.close(fd)
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _ensure(self, folder: str) -> None:
        if folder in self._known:
            return
        (self._root / folder).mkdir(exist_ok=True)
        sync_folder(self._root)
        self._known.add(folder)

    def _check_space(self) -> None:
        space = os.statvfs(self._root)
        if space.f_bavail * space.f_frsize < self._min_free_bytes:
            raise SpoolFull("less free space than the site keeps")


def _write_all(fd: int, parts: Sequence[bytes | memoryview]) -> None:
    left = [memoryview(part) for part in parts if len(part)]
    while left:
        done = os.writev(fd, left)
        while left and done >= len(left[0]):
            done -= len(left.pop(0))
        if left:
            left[0] = left[0][done:]
