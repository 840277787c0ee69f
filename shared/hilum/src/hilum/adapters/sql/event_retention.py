"""Forgetting old messages of the embedded event log, so that it doesn't grow for ever.

The file keeps its size; SQLite uses the freed pages again. A dead letter holds its own copy of the message.
"""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from hilum.adapters.sql.tables import consumer_offsets, events
from hilum.contracts.topics import TOPICS, Topic

_ANY = 2**62


def forget_consumed(connection: Connection, *, before: datetime, limit: int = 200) -> int:
    """Deletes messages published before `before` that every consumer group is done with; how many, about `limit`.

    A group that a topic declares counts from offset 0 until it has committed once, and so does any other group that
    reads the topic. A topic that no group must have read (dead letters) is kept for that time alone.
    """
    return sum(_forget(connection, topic, before=before, limit=limit) for topic in TOPICS)


def _forget(connection: Connection, topic: Topic, *, before: datetime, limit: int) -> int:
    query = sa.select(consumer_offsets.c.consumer_group, consumer_offsets.c.offset)
    positions = {row[0]: row[1] for row in connection.execute(query.where(consumer_offsets.c.topic == topic.name))}
    read = [positions.get(group, 0) for group in topic.groups] + list(positions.values())
    done = min(read, default=_ANY)
    oldest = (
        sa.select(events.c.offset, events.c.published_at)
        .where(events.c.topic == topic.name, events.c.offset <= done)
        .order_by(events.c.offset)
        .limit(limit)
        .subquery()
    )
    old = sa.select(oldest.c.offset).where(oldest.c.published_at < before)
    return connection.execute(sa.delete(events).where(events.c.offset.in_(old))).rowcount
