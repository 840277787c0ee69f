"""The reading list, read again only after somebody committed: the page asks every two seconds."""

import threading
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine

from hilum.adapters.sql import ledger
from hilum.adapters.sql.changes import Changes
from hilum.adapters.sql.ledger_values import StudyRow
from hilum.adapters.sql.reading_list import Standing, reading_list

_FRESH = timedelta(minutes=1)
"""How long one is kept while nobody commits: studies leave the list by the clock."""


class Snapshot:
    """The list and what the pages count, as of one moment; rows are read as pages ask for them, and kept."""

    def __init__(self, connection: Connection, *, now: datetime, keep_ended: timedelta) -> None:
        self.taken_at = now
        self.standings: tuple[Standing, ...] = reading_list(connection, ended_since=now - keep_ended)
        self.studies = ledger.count_studies(connection)
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
        self._kept: Snapshot | None = None

    def current(self, connection: Connection, now: datetime) -> Snapshot:
        """As new as the moment before `connection` began to read, or newer."""
        with self._lock:
            version = self._changes.version()
            kept = self._kept
            if kept is None or version != self._version or not timedelta(0) <= now - kept.taken_at < _FRESH:
                # The version was read first: a commit after it makes the next call read again.
                kept = Snapshot(connection, now=now, keep_ended=self._keep_ended)
                self._kept, self._version = kept, version
            return kept

    def close(self) -> None:
        with self._lock:
            self._changes.close()
