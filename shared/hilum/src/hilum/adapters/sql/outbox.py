"""The `Publisher` port in a cluster: rows of an outbox, in the caller's own transaction.

Ids are given when a row is written, not when its transaction commits, so a higher id may be seen before a lower one.
What must stay in order is written under a lock of its study or partition, one transaction after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from hilum.adapters.sql.database import is_postgresql
from hilum.adapters.sql.event_tables import columns_of, outbox
from hilum.ports.clock import Clock
from hilum.ports.events import Outgoing

CHANNEL = "hilum_outbox"
"""Of PostgreSQL's NOTIFY: a transaction that wrote to the outbox has committed."""


class OutboxPublisher:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def publish(self, connection: Any, messages: Sequence[Outgoing]) -> None:
        rows = [{**columns_of(message), "created_at": self._clock.now()} for message in messages]
        if not rows:
            return
        connection.execute(sa.insert(outbox), rows)
        if is_postgresql(connection):  # sent by the commit, once for the transaction
            connection.execute(sa.select(sa.func.pg_notify(CHANNEL, "")))


@dataclass(frozen=True, slots=True)
class Waiting:
    """A row of the outbox."""

    id: int
    message: Outgoing


def waiting(connection: Connection, *, limit: int) -> list[Waiting]:
    """The oldest rows, in the order in which they must be published."""
    rows = connection.execute(sa.select(outbox).order_by(outbox.c.id).limit(limit))
    return [Waiting(row.id, Outgoing(row.topic, row.key, row.payload, row.headers)) for row in rows]


def remove(connection: Connection, ids: Sequence[int]) -> None:
    """Forgets rows that Kafka has."""
    connection.execute(sa.delete(outbox).where(outbox.c.id.in_(ids)))


def backlog(connection: Connection) -> tuple[int, datetime | None]:
    """How many messages wait for Kafka, and since when the oldest does."""
    count, oldest = connection.execute(sa.select(sa.func.count(), sa.func.min(outbox.c.created_at))).one()
    return count, oldest
