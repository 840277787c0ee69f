"""Journals again what lies in the spool and neither a journal nor the index knows, for a database that was lost.

Whose journal is left needs nothing of that: the assembler folds it. But old journals are removed, and then the index
alone knows what is in their files. This takes those files, and those only, as if they came in now: written in a time of
which the journals are no longer all there (`journal_since`). What is younger and unknown was never acknowledged, and is
for the sweep (`leftovers`) to remove; so the two never claim the same file.
"""

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from hilum.adapters.folder import SCHEME
from hilum.adapters.sql.tables import instances, quarantine, removals
from hilum.domain.errors import Reject
from hilum_listener.handlers.journal import AssociationChanged, InstanceReceived, encode, is_growing, sync_folder
from hilum_listener.handlers.journal_since import journals_since
from hilum_listener.handlers.part10 import Identity, identify
from hilum_listener.handlers.receiver_lock import lock
from hilum_listener.handlers.spool_name import spool_name
from hilum_listener.settings import Places

SENDER = "hilum reindex"
"""In place of the AE title, which nobody knows any more; so the ledger and the quarantine say where it came from."""
_KEY = re.compile(rb"[0-9a-f]{2}/[0-9a-f]{16,64}-[0-9a-f]{16,64}\.dcm")
_LONGEST_KEY = 140
_READ_BYTES, _HEAD_BYTES = 1 << 20, 1 << 21
_ASKED_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Reindexed:
    """Numbers of files: all with content, those known already, journaled now, and left alone since a receiver that runs
    may be writing them or since nobody was ever told of them."""

    files: int
    known: int
    journaled: int
    being_received: int
    never_acknowledged: int


@dataclass(frozen=True, slots=True)
class _File:
    """`key` as in the URI; `changed_s` seconds since 1970."""

    key: str
    size: int
    changed_s: float

    @property
    def run(self) -> str:
        return self.key[3:19]


def reindex(places: Places, connection: Connection, now: datetime, *, dry_run: bool = False) -> Reindexed:
    """All entries come in one journal that gets its name when it is whole and synced: a kill before leaves nothing, and
    the same again journals nothing.

    Args:
        connection: of the site's database, which may be in use.

    Raises:
        AlreadyRunning: another one is at it.
        OSError: the spool can't be read or written.
    """
    held = lock(places.run, "reindex")
    try:
        return _reindex(places, connection, now, dry_run=dry_run)
    finally:
        os.close(held)


def _reindex(places: Places, connection: Connection, now: datetime, *, dry_run: bool) -> Reindexed:
    files = list(_files(places.spool))  # first: whatever comes or goes after this is somebody else's
    running = {path.name for path in places.runs.glob("*") if is_growing(path)}
    since_s = journals_since(places.journal)
    named = _named(places.journal)
    left = [file for file in files if file.key not in named]
    indexed = set(_indexed(connection, left))
    unknown = [file for file in left if file.key not in indexed]
    received = [file for file in unknown if file.run in running]
    lost = [file for file in unknown if file.run not in running]
    young = [file for file in lost if since_s is not None and file.changed_s > since_s]
    old = [file for file in lost if since_s is None or file.changed_s <= since_s]
    if not dry_run and old:
        _journal(places, old, now)
    return Reindexed(len(files), len(files) - len(unknown), len(old), len(received), len(young))


def _files(spool: Path) -> Iterator[_File]:
    for number in range(256):
        with suppress(FileNotFoundError), os.scandir(spool / f"{number:02x}") as entries:
            for entry in entries:
                key = f"{number:02x}/{entry.name}"
                if _KEY.fullmatch(key.encode()) is None:
                    continue
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    if status.st_size:  # else a name that was made ahead
                        yield _File(key, status.st_size, status.st_mtime)


def _named(journal: Path) -> set[str]:
    """Every name of a file in the journals, in damaged lines too."""
    named: set[str] = set()
    for path in sorted(journal.glob("*.jsonl")):
        with suppress(FileNotFoundError), path.open("rb") as file:  # the index knows what it said
            rest = b""
            while piece := file.read(_READ_BYTES):
                piece = rest + piece
                named.update(found.decode() for found in _KEY.findall(piece))
                rest = piece[-_LONGEST_KEY:]
    return named


def _indexed(connection: Connection, files: Sequence[_File]) -> Iterator[str]:
    for start in range(0, len(files), _ASKED_AT_ONCE):
        uris = [SCHEME + file.key for file in files[start : start + _ASKED_AT_ONCE]]
        for table in (instances, quarantine, removals):
            for uri in connection.execute(sa.select(table.c.uri).where(table.c.uri.in_(uris))).scalars():
                yield uri.removeprefix(SCHEME)


def _journal(places: Places, files: Sequence[_File], now: datetime) -> None:
    association = f"reindex-{now.astimezone(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
    name = f"{now.astimezone(UTC):%Y%m%dT%H%M%S%f}-{spool_name(places.spool)}-{os.getpid()}-0000"
    unnamed = places.journal / f"{name}.part"
    with unnamed.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # or it would be taken for one that a kill left
        file.write(encode(AssociationChanged("opened", SENDER, "", association, now)))
        for one in files:
            with suppress(FileNotFoundError):  # retention was faster
                file.write(encode(_entry(places.spool, one, association)))
        file.write(encode(AssociationChanged("released", SENDER, "", association, now)))
        file.flush()
        os.fdatasync(file.fileno())
        unnamed.rename(unnamed.with_suffix(".jsonl"))
    sync_folder(places.journal)


def _entry(spool: Path, file: _File, association: str) -> InstanceReceived:
    """What nobody can read is journaled too: the index quarantines it with the reason."""
    with (spool / file.key).open("rb") as opened:
        head = opened.read(_HEAD_BYTES)
    try:
        identity = identify(head)
    except Reject:
        identity = Identity("", "", "", "")
    return InstanceReceived(
        uri=SCHEME + file.key,
        size=file.size,
        sop_instance_uid=identity.sop_instance_uid,
        sop_class_uid=identity.sop_class_uid,
        transfer_syntax_uid=identity.transfer_syntax_uid,
        calling_ae=SENDER,
        peer="",
        association=association,
        received_at=datetime.fromtimestamp(file.changed_s, UTC),
    )
