"""Both sides of the event log for one behaviour suite: SQLite on one machine, PostgreSQL and Kafka in a cluster."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from hilum.adapters.eventlog import ClosableConsumer
from hilum.adapters.kafka.consumer import LogConsumer
from hilum.adapters.kafka.relay import Relay
from hilum.adapters.kafka.servers import Servers
from hilum.adapters.kafka.topics import TopicAdmin
from hilum.adapters.sql.database import database_path, open_database, transaction
from hilum.adapters.sql.eventlog import SqlConsumer, SqlPublisher
from hilum.adapters.sql.outbox import OutboxPublisher
from hilum.adapters.sql.schema import migrate
from hilum.contracts.topics import DEAD_LETTERS, TOPICS
from hilum.domain.errors import Busy
from hilum.ports.clock import Clock
from hilum.ports.events import Consumer, Outgoing, Publisher, Received
from hilum.runtime.logs import Log
from hilum.testing.kafka import Kafka
from hilum.testing.postgresql import Database

_FREE_TOPICS = ("a", "b")
_PARTITIONS = 3
_ARRIVES_S = 60.0
_NOTHING_S = 1.5


class Side:
    """One side: publishing, members of groups, and waiting for what travels."""

    name = "embedded"
    takes_s = 0.0
    nothing_s = 0.0

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self.engine = engine
        self.clock = clock
        self._members: list[ClosableConsumer] = []

    @property
    def publisher(self) -> Publisher:
        return SqlPublisher(self.clock)

    def consumer(self, group: str = "g", topics: Sequence[str] = ("a",)) -> ClosableConsumer:
        """A new member, closed in the end."""
        self._members.append(self._make(group, topics))
        return self._members[-1]

    def publish(self, *messages: Outgoing) -> None:
        """In a transaction of its own, and until it can be read."""
        with transaction(self.engine) as connection:
            self.publisher.publish(connection, messages)
        self.travel()

    def read(self, consumer: Consumer, count: int = 1, *, limit: int = 16) -> list[Received]:
        """What one poll brings, which waits until at least `count` messages can be had at once."""
        self.travel()
        deadline = time.monotonic() + self.takes_s
        while True:
            found = consumer.poll(timeout_s=min(self.takes_s, 0.5), limit=limit)
            if len(found) >= count or time.monotonic() >= deadline:
                return list(found)

    def nothing(self, consumer: Consumer, *, for_s: float | None = None) -> bool:
        """True when nothing comes."""
        self.travel()
        return not consumer.poll(timeout_s=self.nothing_s if for_s is None else for_s)

    def travel(self) -> None:
        """Brings what was published to where it is read."""

    def close(self) -> None:
        for member in self._members:
            member.close()

    def _make(self, group: str, topics: Sequence[str]) -> ClosableConsumer:
        return SqlConsumer(self.engine, group=group, topics=topics, clock=self.clock)


class KafkaSide(Side):
    """Topics of its own under a prefix, on a broker that others use as well."""

    name = "cluster"
    takes_s = _ARRIVES_S
    nothing_s = _NOTHING_S

    def __init__(
        self, engine: Engine, bootstrap: tuple[str, ...], clock: Clock, *, servers: Servers | None = None
    ) -> None:
        super().__init__(engine, clock)
        self.servers = servers or Servers(bootstrap, prefix=f"{uuid4().hex[:8]}.")
        self.make_topics(*_FREE_TOPICS, *(topic.name for topic in TOPICS))
        self._relay = self.relay()

    @property
    def publisher(self) -> Publisher:
        return OutboxPublisher(self.clock)

    def relay(self, stop: threading.Event | None = None) -> Relay:
        stop = stop or threading.Event()
        return Relay(self.engine, self.servers, clock=self.clock, stop=stop, log=Log("hilum.test"))

    def make_topics(self, *names: str) -> None:
        admin = TopicAdmin(self.servers)
        for step in admin.plan([replace(DEAD_LETTERS, name=name, partitions=_PARTITIONS) for name in names]):
            admin.apply(step)
        admin.close()

    def travel(self) -> None:
        deadline = time.monotonic() + _ARRIVES_S
        while True:
            try:
                if not self._relay.forward():
                    return
            except Busy:  # a broker on a busy machine answers late
                if time.monotonic() > deadline:
                    raise

    def close(self) -> None:
        super().close()
        self._relay.close()

    def _make(self, group: str, topics: Sequence[str]) -> ClosableConsumer:
        return LogConsumer(self.engine, self.servers, group=group, topics=topics, clock=self.clock)


@pytest.fixture
def kafka_side(postgresql_database: Database, kafka_broker: Kafka, set_clock: Clock) -> Iterator[KafkaSide]:
    """The cluster's side on the session's servers, with a database of its own."""
    engine = postgresql_database.open(pool_size=20)
    side = KafkaSide(engine, kafka_broker.bootstrap, set_clock)
    yield side
    side.close()
    engine.dispose()


@pytest.fixture(params=["embedded", "cluster"])
def side(request: pytest.FixtureRequest, tmp_path: Path, set_clock: Clock) -> Iterator[Side]:
    """Each side in turn. The module says what time it is: a fixture `set_clock`."""
    if request.param == "cluster":
        yield request.getfixturevalue("kafka_side")
        return
    engine = open_database(database_path(tmp_path))
    migrate(engine)
    embedded = Side(engine, set_clock)
    yield embedded
    embedded.close()
    engine.dispose()
