"""The list of studies, read again only after somebody committed: the page asks every two seconds."""

import threading
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine

from hilum.adapters.sql import ledger
from hilum.adapters.sql.ledger_values import StudyRow


@dataclass(frozen=True, slots=True)
class Snapshot:
    rows: tuple[StudyRow, ...]
    quarantine: int
    dead_letters: int


def take(connection: Connection) -> Snapshot:
    return Snapshot(
        rows=tuple(ledger.list_studies(connection)),
        quarantine=ledger.count_quarantine(connection),
        dead_letters=ledger.count_dead_letters(connection),
    )


class Snapshots:
    """Keeps the last one while SQLite's data_version, seen from one connection, stands still."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._watch: Any = None
        self._version = -1
        self._kept: Snapshot | None = None

    def current(self, connection: Connection) -> Snapshot:
        """As new as the moment before `connection` began to read, or newer."""
        with self._lock:
            if self._watch is None:
                self._watch = self._engine.raw_connection()
            version = self._watch.cursor().execute("PRAGMA data_version").fetchone()[0]
            if self._kept is None or version != self._version:
                # The version was read first: a commit after it makes the next call read again.
                self._kept, self._version = take(connection), version
            return self._kept

    def close(self) -> None:
        with self._lock:
            if self._watch is not None:
                self._watch.close()
                self._watch = None
