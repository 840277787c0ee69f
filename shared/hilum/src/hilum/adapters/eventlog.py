"""The event log that a site has: in its SQLite, or Kafka with an outbox in its PostgreSQL. For composition roots."""

import threading
from collections.abc import Sequence
from typing import Protocol

from sqlalchemy import Engine

from hilum.adapters.sql.eventlog import SqlConsumer, SqlPublisher
from hilum.ports.clock import Clock
from hilum.ports.events import Consumer, Publisher
from hilum.runtime.cluster import Cluster
from hilum.runtime.logs import Log


class ClosableConsumer(Consumer, Protocol):
    def close(self) -> None:
        """Leaves the group."""
        ...


class EventLog(Protocol):
    """Both ends of the log, and what runs beside them."""

    @property
    def publisher(self) -> Publisher: ...

    def consumer(self, group: str, topics: Sequence[str], *, stop: threading.Event) -> ClosableConsumer:
        """A new member of the group, for one thread."""
        ...

    def run_relay(self, stop: threading.Event, log: Log) -> None:
        """Brings what was published to where it is read, until `stop` is set; returns at once where that is nothing."""
        ...


class EmbeddedEventLog:
    """Publishing is a row in SQLite, which the consumers read."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self.publisher: Publisher = SqlPublisher(clock)

    def consumer(self, group: str, topics: Sequence[str], *, stop: threading.Event) -> ClosableConsumer:
        return SqlConsumer(self._engine, group=group, topics=topics, clock=self._clock, stop=stop)

    def run_relay(self, stop: threading.Event, log: Log) -> None:
        """Nothing to do."""


class KafkaEventLog:
    """Publishing is a row in the outbox; a relay in each process brings it to Kafka."""

    def __init__(self, engine: Engine, cluster: Cluster, clock: Clock) -> None:
        from hilum.adapters.kafka.servers import Servers
        from hilum.adapters.sql.outbox import OutboxPublisher

        self._engine = engine
        self._servers = Servers.of(cluster)
        self._clock = clock
        self.publisher: Publisher = OutboxPublisher(clock)

    def consumer(self, group: str, topics: Sequence[str], *, stop: threading.Event) -> ClosableConsumer:
        from hilum.adapters.kafka.consumer import LogConsumer

        return LogConsumer(self._engine, self._servers, group=group, topics=topics, clock=self._clock, stop=stop)

    def run_relay(self, stop: threading.Event, log: Log) -> None:
        from hilum.adapters.kafka.relay import Relay

        Relay(self._engine, self._servers, clock=self._clock, stop=stop, log=log).run()


def event_log(engine: Engine, cluster: Cluster | None, clock: Clock) -> EventLog:
    """The one that belongs to where the state is kept. Meets nothing before it is used."""
    return EmbeddedEventLog(engine, clock) if cluster is None else KafkaEventLog(engine, cluster, clock)
