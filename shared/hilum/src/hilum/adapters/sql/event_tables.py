"""The tables of the event log, on one machine and in a cluster, and of what no service could handle."""

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, String, Table, Text, UniqueConstraint, text

from hilum.adapters.sql.columns import Instant, RowId, metadata
from hilum.ports.events import Outgoing

# --- one machine ------------------------------------------------------------------------------------------------------

events = Table(
    "events",
    metadata,
    Column("offset", RowId, primary_key=True, autoincrement=True),
    Column("topic", String(64), nullable=False),
    Column("key", String(64), nullable=False),
    Column("payload", Text, nullable=False),
    Column("headers", JSON, nullable=False),
    Column("published_at", Instant, nullable=False),
    Index("ix_events_topic", "topic", "offset"),
    sqlite_autoincrement=True,
    comment="every service through the event log adapter, in its own transaction",
)

consumer_offsets = Table(
    "consumer_offsets",
    metadata,
    Column("consumer_group", String(64), primary_key=True),
    Column("topic", String(64), primary_key=True),
    Column("offset", BigInteger, nullable=False),  # of the last message that is done
    comment="each consumer group its own rows",
)

# --- cluster ----------------------------------------------------------------------------------------------------------

outbox = Table(
    "outbox",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("topic", String(64), nullable=False),
    Column("key", String(64), nullable=False),
    Column("payload", Text, nullable=False),
    Column("headers", JSON, nullable=False),
    Column("created_at", Instant, nullable=False),
    sqlite_autoincrement=True,
    comment="every service in its own transaction; the relay that leads publishes to Kafka and deletes",
)

partition_offsets = Table(
    "partition_offsets",
    metadata,
    Column("consumer_group", String(64), primary_key=True),
    Column("topic", String(64), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("offset", BigInteger, nullable=False),  # of the next message, as Kafka counts
    comment="each consumer group its own rows, in the transaction of what a message caused",
)

# --- both -------------------------------------------------------------------------------------------------------------

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("consumer_group", String(64), nullable=False),
    Column("topic", String(64), nullable=False),
    Column("partition", Integer, nullable=False, server_default="0"),
    Column("offset", BigInteger, nullable=False),
    Column("key", String(64), nullable=False),
    Column("payload", Text, nullable=False),
    Column("headers", JSON, nullable=False, server_default=text("'{}'")),
    Column("reason", Text, nullable=False),
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("created_at", Instant, nullable=False),
    Column("replayed_at", Instant),
    UniqueConstraint("consumer_group", "topic", "partition", "offset"),
    comment="each consumer group its own rows",
)


def columns_of(message: Outgoing) -> dict[str, Any]:
    """The columns that `events` and `outbox` have in common."""
    return {"topic": message.topic, "key": message.key, "payload": message.payload, "headers": dict(message.headers)}
