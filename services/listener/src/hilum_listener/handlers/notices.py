"""What comes in beside instances (procedure steps, notifications, commitment requests), one small synced file each.

The receiving process answers from these files, so it needs no database and knows after a restart what it said before.
The journal names each change; the index is folded from the file that the entry names.
"""

import fcntl
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias

from hilum.domain.identity import digest_of
from hilum_listener.handlers.journal import sync_folder
from hilum_listener.settings import Places

_NAME = re.compile(r"[0-9a-f]{40}")
_NUMBERS = itertools.count(1)
Content: TypeAlias = Mapping[str, Any]


class Kind(StrEnum):
    STEP = "step"
    AVAILABILITY = "availability"
    COMMITMENT = "commitment"
    REPORT = "report"


def name_of(*parts: str) -> str:
    """The name of a notice: 40 hex digits that say nothing of the parts."""
    return digest_of(*parts)[:40]


class NoticeStore:
    """`spool/notices/<kind>/<first two digits>/<name>.json`. Several processes and threads may use the folder."""

    def __init__(self, places: Places) -> None:
        self._root = places.spool / "notices"
        self._incoming = places.incoming

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds off every other change, in this process and in others.

        Raises:
            OSError: the folder can't be written.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        fd = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # each descriptor opened here is one to flock, so threads wait as well
            yield
        finally:
            os.close(fd)

    def read(self, kind: str, name: str) -> Content | None:
        """What the notice says; None when there is none, or none that can be read.

        Raises:
            OSError: the spool can't be read.
            ValueError: not a kind and a name.
        """
        path = self._path(kind, name)
        try:
            content = json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def write(self, kind: Kind, name: str, content: Content) -> None:
        """Makes the notice say `content`, durably: the whole of it or, after a kill, still what it said before.

        Raises:
            OSError: it doesn't.
        """
        path = self._path(kind, name)
        self._ensure(path.parent)
        self._incoming.mkdir(parents=True, exist_ok=True)
        temporary = self._incoming / f"{os.getpid()}-{next(_NUMBERS)}.notice"
        try:
            with temporary.open("xb") as file:
                file.write(json.dumps(content, separators=(",", ":")).encode())
                file.flush()
                os.fdatasync(file.fileno())
            temporary.rename(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)

    def prune(self, until: datetime, *, part: int) -> int:
        """Removes what nobody changed since `until` from one of 256 parts of each folder; returns how many.

        Raises:
            OSError: one can't be removed.
        """
        removed = 0
        with self.locked():
            for path in self._root.glob(f"*/{part % 256:02x}/*.json"):
                if path.stat().st_mtime < until.timestamp():
                    path.unlink()
                    removed += 1
        return removed

    def _path(self, kind: str, name: str) -> Path:
        if kind not in set(Kind) or _NAME.fullmatch(name) is None:
            raise ValueError("not the name of a notice")
        return self._root / kind / name[:2] / f"{name}.json"

    def _ensure(self, folder: Path) -> None:
        """Also when they are there: the process before may have been killed between making one and its sync."""
        folder.mkdir(parents=True, exist_ok=True)
        for above in (folder.parent, self._root, self._root.parent):
            sync_folder(above)
