"""Journals again what lies in the spool and neither a journal nor the index knows, for a database that was lost.

Whose journal is left needs nothing of that: the assembler folds it. But old journals are removed, and then the index
alone knows what is in their files. This takes those files, and those only, as if they came in now: written in a time of
which the journals are no longer all there (`journal_since`). What is younger and unknown was never acknowledged, and is
for the sweep (`leftovers`) to remove; so the two never claim the same file.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection

from hilum.adapters.folder import SCHEME
from hilum.domain.errors import Reject
from hilum_listener.handlers.entries import entry_of
from hilum_listener.handlers.journal import AssociationChanged, InstanceReceived, encode, is_growing, sync_folder
from hilum_listener.handlers.journal_since import journals_since
from hilum_listener.handlers.part10 import Identity, identify
from hilum_listener.handlers.receiver_lock import lock
from hilum_listener.handlers.spool import Stored
from hilum_listener.handlers.spool_files import SpoolFile, files_of, indexed, keys_in
from hilum_listener.handlers.spool_name import spool_name
from hilum_listener.settings import Places

SENDER = "hilum reindex"
"""In place of the AE title, which nobody knows any more; so the ledger and the quarantine say where it came from."""
_HEAD_BYTES = 1 << 21


@dataclass(frozen=True, slots=True)
class Reindexed:
    """Numbers of files: all with content, those known already, journaled now, and left alone since a receiver that runs
    may be writing them or since nobody was ever told of them."""

    files: int
    known: int
    journaled: int
    being_received: int
    never_acknowledged: int


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
    known = indexed(connection, left)
    unknown = [file for file in left if file.key not in known]
    received = [file for file in unknown if file.run in running]
    lost = [file for file in unknown if file.run not in running]
    young = [file for file in lost if since_s is not None and file.changed_s > since_s]
    old = [file for file in lost if since_s is None or file.changed_s <= since_s]
    if not dry_run and old:
        _journal(places, old, now)
    return Reindexed(len(files), len(files) - len(unknown), len(old), len(received), len(young))


def _files(spool: Path) -> Iterator[SpoolFile]:
    """Those with content; the others are names that were made ahead."""
    for number in range(256):
        with suppress(FileNotFoundError):
            yield from (file for file in files_of(spool / f"{number:02x}") if file.size)


def _named(journal: Path) -> set[str]:
    """Every name of a file in the journals, in damaged lines too."""
    named: set[str] = set()
    for path in sorted(journal.glob("*.jsonl")):
        with suppress(FileNotFoundError):  # the index knows what it said
            named.update(*keys_in(path))
    return named


def _journal(places: Places, files: Sequence[SpoolFile], now: datetime) -> None:
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


def _entry(spool: Path, file: SpoolFile, association: str) -> InstanceReceived:
    """What nobody can read is journaled too: the index quarantines it with the reason."""
    with (spool / file.key).open("rb") as opened:
        head = opened.read(_HEAD_BYTES)
    try:
        identity = identify(head)
    except Reject:
        identity = Identity("", "", "", "")
    return entry_of(
        Stored(SCHEME + file.key, file.size),
        identity,
        calling_ae=SENDER,
        peer="",
        association=association,
        received_at=datetime.fromtimestamp(file.changed_s, UTC),
    )
