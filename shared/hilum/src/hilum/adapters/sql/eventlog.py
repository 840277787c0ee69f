"""The embedded event log: topics as rows of the same SQLite that holds the state.

SQLite has one writer at a time, so offsets are committed in the order in which they are given; a consumer that has
read up to an offset has seen everything before it.
"""

import threading
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.sql.database import passing_trouble_is_busy, reading
from hilum.adapters.sql.dead_letters import keep
from hilum.adapters.sql.event_tables import columns_of, consumer_offsets, events
from hilum.adapters.sql.upsert import insert
from hilum.ports.clock import Clock
from hilum.ports.events import Outgoing, Received

_POLL_S = 0.02


class SqlPublisher:
    """The `Publisher` port: rows in the caller's own transaction."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def publish(self, connection: Any, messages: Sequence[Outgoing]) -> None:
        rows = [{**columns_of(message), "published_at": self._clock.now()} for message in messages]
        if rows:
            connection.execute(sa.insert(events), rows)


class SqlConsumer:
    """The `Consumer` port for one group. One member per group: a second one would see the same messages."""

    def __init__(
        self, engine: Engine, *, group: str, topics: Sequence[str], clock: Clock, stop: threading.Event | None = None
    ) -> None:
        self._engine = engine
        self._group = group
        self._topics = tuple(topics)
        self._clock = clock
        self._stop = stop or threading.Event()
        self._watch: Any = None
        self._version: int | None = None

    def poll(self, *, timeout_s: float, limit: int = 16) -> Sequence[Received]:
        deadline = time.monotonic() + timeout_s
        while not self._stop.is_set():
            if self._changed():
                found = self._read(limit)
                if found:
                    self._version = None  # there may be more
                    return found
            if time.monotonic() >= deadline:
                break
            self._stop.wait(_POLL_S)
        return ()

    def commit(self, connection: Any, received: Received) -> None:
        statement = insert(connection, consumer_offsets).values(
            consumer_group=self._group, topic=received.topic, offset=received.offset
        )
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["consumer_group", "topic"],
                set_={"offset": sa.func.max(consumer_offsets.c.offset, statement.excluded.offset)},
            )
        )
        self._version = None

    def dead_letter(self, connection: Any, received: Received, reason: str, attempt: int = 1) -> None:
        publisher, now = SqlPublisher(self._clock), self._clock.now()
        keep(connection, publisher, received, group=self._group, reason=reason, attempt=attempt, now=now)
        self.commit(connection, received)

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _changed(self) -> bool:
        """True when another connection committed since the last look (PRAGMA data_version; microseconds)."""
        with passing_trouble_is_busy():
            if self._watch is None:
                self._watch = self._engine.raw_connection()
            version = self._watch.cursor().execute("PRAGMA data_version").fetchone()[0]
        if version == self._version:
            return False
        self._version = version
        return True

    def _read(self, limit: int) -> Sequence[Received]:
        """The first `limit` messages past the group's position on each topic, oldest first."""
        position = (
            sa.select(sa.func.coalesce(sa.func.max(consumer_offsets.c.offset), 0))
            .where(consumer_offsets.c.consumer_group == self._group, consumer_offsets.c.topic == events.c.topic)
            .correlate(events)
            .scalar_subquery()
        )
        query = (
            sa.select(events)
            .where(events.c.topic.in_(self._topics), events.c.offset > position)
            .order_by(events.c.offset)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            return tuple(
                Received(row.topic, row.offset, row.key, row.payload, row.headers) for row in connection.execute(query)
            )
