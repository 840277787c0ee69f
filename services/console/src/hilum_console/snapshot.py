"""The reading list, read again only after somebody committed: the page asks every two seconds."""

import threading
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine

from hilum.adapters.sql import ledger
from hilum.adapters.sql.changes import Changes
from hilum.adapters.sql.ledger_values import StudyRow
from hilum.adapters.sql.reading_list import ReadingList, Standing

_FRESH = timedelta(minutes=1)
"""How long one is kept while nobody commits: studies leave the list by the clock."""
_MANY = 20_000
"""So many studies and more are counted once in that time only."""


class Snapshot:
    """The list and what the pages count, as of one moment; rows are read as pages ask for them, and kept."""

    def __init__(
        self,
        connection: Connection,
        *,
        now: datetime,
        keep_ended: timedelta,
        studies: int | None = None,
        reader: ReadingList | None = None,
    ) -> None:
        """`studies`: how many there are, where that is known. `reader`: knows what an earlier one read."""
        self.taken_at = now
        reader = reader or ReadingList()
        self.standings: tuple[Standing, ...] = reader.read(connection, ended_since=now - keep_ended, now=now)
        self.studies = ledger.count_studies(connection) if studies is None else studies
        self.parked = ledger.count_parked(connection)
        self.quarantine = ledger.count_quarantine(connection)
        self.dead_letters = ledger.count_dead_letters(connection)
        self._rows: dict[str, StudyRow] = {}

    def rows(self, connection: Connection, study_uids: Sequence[str]) -> list[StudyRow]:
        """In the order of the UIDs."""
        missing = [uid for uid in study_uids if uid not in self._rows]
        self._rows.update((row.study_uid, row) for row in ledger.study_rows(connection, missing))
        return [self._rows[uid] for uid in study_uids]


class Snapshots:
    """Keeps the last one while nobody commits."""

    def __init__(self, engine: Engine, *, keep_ended: timedelta) -> None:
        self._keep_ended = keep_ended
        self._lock = threading.Lock()
        self._changes = Changes(engine)
        self._version: object = None
        self._reader = ReadingList()
        self._counted: tuple[datetime, int] | None = None
        self._kept: Snapshot | None = None

    def current(self, connection: Connection, now: datetime) -> Snapshot:
        """As new as the moment before `connection` began to read, or newer."""
        with self._lock:
            version = self._changes.version()
            kept = self._kept
            if kept is None or version != self._version or not timedelta(0) <= now - kept.taken_at < _FRESH:
                # The version was read first: a commit after it makes the next call read again.
                count = self._count(connection, now)
                kept = Snapshot(connection, now=now, keep_ended=self._keep_ended, studies=count, reader=self._reader)
                self._kept, self._version = kept, version
            return kept

    def _count(self, connection: Connection, now: datetime) -> int:
        """How many studies there are; of very many, how many there were at most a minute ago: counting reads them."""
        if self._counted is not None:
            at, count = self._counted
            if count >= _MANY and timedelta(0) <= now - at < _FRESH:
                return count
        self._counted = now, ledger.count_studies(connection)
        return self._counted[1]

    def close(self) -> None:
        with self._lock:
            self._changes.close()
