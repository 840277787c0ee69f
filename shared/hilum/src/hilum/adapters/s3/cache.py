"""Local copies of a bounded total size; the longest unused go first. Several processes may share one folder."""

import contextlib
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_IN_USE_S = 60.0
_STALE_PART_S = 3600.0


class Cache:
    """Files under keys. A file in it is whole: it gets its name when `fill` has written and checked all of it."""

    def __init__(self, root: Path, *, limit_bytes: int) -> None:
        self._root = root
        self._limit_bytes = limit_bytes

    def get(self, key: str) -> Path | None:
        """The local copy, marked as used just now."""
        path = self._root / key.replace("/", "-")
        try:
            os.utime(path)
        except OSError:
            return None
        return path

    def put(self, key: str, size_bytes: int, fill: Callable[[BinaryIO], None]) -> Path:
        """Makes room, lets `fill` write the copy, and returns its path. What `fill` raises leaves nothing.

        Raises:
            OSError: the folder can't be written.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        self._make_room(size_bytes)
        path = self._root / key.replace("/", "-")
        part = self._root / f"{secrets.token_hex(16)}.part"
        try:
            with part.open("xb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())  # or a power cut could leave a name without its bytes
            part.rename(path)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        return path

    def forget(self, key: str) -> None:
        (self._root / key.replace("/", "-")).unlink(missing_ok=True)

    def _make_room(self, size_bytes: int) -> None:
        """What somebody asked for within the last minute is kept, since it may not be open yet."""
        now = time.time()
        found: list[tuple[float, int, Path]] = []
        for path in self._root.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if path.suffix == ".part" and now - status.st_mtime > _STALE_PART_S:
                    path.unlink(missing_ok=True)  # of a process that was killed
                else:
                    found.append((status.st_mtime, status.st_size, path))
        total = sum(size for _used, size, _path in found) + size_bytes
        for used, size, path in sorted(found):
            if total <= self._limit_bytes or now - used < _IN_USE_S:
                return
            path.unlink(missing_ok=True)
            total -= size
