"""The clock that all services of a site share: the database's in a cluster, the machine's own on one machine."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.sql.database import is_postgresql, reading
from hilum.domain.errors import Busy
from hilum.ports.clock import Clock, SystemClock

_EVERY_S = 5.0
_TRUSTED_ROUND_TRIP_S = 0.25
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOW = sa.text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")


class DatabaseClock:
    """PostgreSQL's time, carried on by this process's monotonic clock between two looks; never the machine's.

    A look is off by half its round trip at most. While the database is away, or answers slowly, the last good one
    counts: quartz drifts by seconds in a day.
    """

    def __init__(
        self, engine: Engine, *, monotonic_s: Callable[[], float] = time.monotonic, every_s: float = _EVERY_S
    ) -> None:
        self._engine = engine
        self._monotonic_s = monotonic_s
        self._every_s = every_s
        self._lock = threading.Lock()
        self._offset: timedelta | None = None
        self._looked_at_s = 0.0

    def now(self) -> datetime:
        """The database's time, aware, in UTC.

        Raises:
            Busy: it was never asked so far, and is away.
        """
        at_s = self._monotonic_s()
        offset = self._offset
        if offset is None:
            with self._lock:
                offset = self._offset if self._offset is not None else self._look()
        elif at_s - self._looked_at_s >= self._every_s and self._lock.acquire(blocking=False):
            try:
                offset = self._look_again(offset)
            finally:
                self._lock.release()
        return _EPOCH + offset + timedelta(seconds=self._monotonic_s())

    def _look_again(self, known: timedelta) -> timedelta:
        try:
            return self._look()
        except Busy:
            self._looked_at_s = self._monotonic_s()
            return known

    def _look(self) -> timedelta:
        with reading(self._engine) as connection:
            connection.execute(sa.select(sa.literal(1)))  # the session stands now, so the next is one round trip
            asked_s = self._monotonic_s()
            microseconds = int(connection.execute(_NOW).scalar_one())
            answered_s = self._monotonic_s()
        self._looked_at_s = answered_s
        found = timedelta(microseconds=microseconds) - timedelta(seconds=(asked_s + answered_s) / 2)
        if self._offset is None or answered_s - asked_s <= _TRUSTED_ROUND_TRIP_S:
            self._offset = found
        return self._offset


def clock_of(engine: Engine) -> Clock:
    """For the services that share this database. On one machine they share its clock as well."""
    return DatabaseClock(engine) if is_postgresql(engine) else SystemClock()
