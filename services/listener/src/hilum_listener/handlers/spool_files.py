"""What lies in the spool, and who names it: the journals and the index."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from hilum.adapters.folder import SCHEME
from hilum.adapters.sql.tables import instances, quarantine, removals

_KEY = re.compile(rb"[0-9a-f]{2}/[0-9a-f]{16,64}-[0-9a-f]{16,64}\.dcm")
_LONGEST_KEY = 140
_READ_BYTES = 1 << 20
_ASKED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class SpoolFile:
    """`key` as in the URI; `changed_s` seconds since 1970."""

    key: str
    size: int
    changed_s: float

    @property
    def run(self) -> str:
        """Of the receiver that wrote it."""
        return self.key[3:19]


def files_of(folder: Path) -> Iterator[SpoolFile]:
    """Those of one of the spool's folders, empty ones too; not what goes away meanwhile.

    Raises:
        OSError: the folder can't be read.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            key = f"{folder.name}/{entry.name}"
            if _KEY.fullmatch(key.encode()) is not None:
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    yield SpoolFile(key, status.st_size, status.st_mtime)


def keys_in(journal: Path) -> Iterator[set[str]]:
    """The key of every file in the journal, in damaged lines too, a piece of the journal at a time.

    Raises:
        OSError: it can't be read.
    """
    with journal.open("rb") as file:
        rest = b""
        while piece := file.read(_READ_BYTES):
            piece = rest + piece
            yield {found.decode() for found in _KEY.findall(piece)}
            rest = piece[-_LONGEST_KEY:]


def indexed(connection: Connection, files: Sequence[SpoolFile]) -> set[str]:
    """The keys of those that the index names: as an instance, in quarantine or to be removed."""
    known: set[str] = set()
    for start in range(0, len(files), _ASKED_AT_ONCE):
        uris = [SCHEME + file.key for file in files[start : start + _ASKED_AT_ONCE]]
        for table in (instances, quarantine, removals):
            found = connection.execute(sa.select(table.c.uri).where(table.c.uri.in_(uris))).scalars()
            known.update(uri.removeprefix(SCHEME) for uri in found)
    return known
