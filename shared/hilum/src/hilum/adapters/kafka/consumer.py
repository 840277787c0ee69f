"""The `Consumer` port on Kafka: the group shares out partitions, and the database says how far each is done.

An offset is committed in the transaction of what its message caused, so a message whose transaction committed is never
handled again, whatever Kafka's own group offset says; that one follows for whoever watches the lag. Two members that
both think that a partition is theirs (one was paused and not told) can't both commit a message: the row of the
partition is changed by comparing it with what the member knew.
"""

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from kafka import KafkaConsumer  # type: ignore[import-untyped]
from kafka.consumer.subscription_state import ConsumerRebalanceListener  # type: ignore[import-untyped]
from kafka.errors import KafkaError  # type: ignore[import-untyped]
from kafka.structs import OffsetAndMetadata  # type: ignore[import-untyped]
from sqlalchemy import Engine

from hilum.adapters.kafka.servers import Servers, trouble_is_busy
from hilum.adapters.sql.database import reading
from hilum.adapters.sql.dead_letters import keep
from hilum.adapters.sql.event_tables import partition_offsets
from hilum.adapters.sql.outbox import OutboxPublisher
from hilum.adapters.sql.upsert import insert
from hilum.contracts.topics import MAX_MESSAGE_BYTES
from hilum.domain.errors import Busy, Retry
from hilum.ports.clock import Clock
from hilum.ports.events import Received

_SLICE_S = 0.2
_LOOK_S = 5.0
_LAG_S = 1.0
_SESSION_MS = 6_000
_HEARTBEAT_MS = 2_000
_MOST_PAUSE_MS = 60_000
_CLOSE_MS = 2_000
_REFETCH_BYTES = 4 * 2**20


class LogConsumer:
    """One member of a group. To be used by one thread; Kafka is met by the first poll."""

    def __init__(
        self,
        engine: Engine,
        servers: Servers,
        *,
        group: str,
        topics: Sequence[str],
        clock: Clock,
        stop: threading.Event | None = None,
    ) -> None:
        self._engine = engine
        self._servers = servers
        self._group = group
        self._topics = tuple(topics)
        self._clock = clock
        self._stop = stop or threading.Event()
        self._kafka: Any = None
        self._listener = _Assignments()
        self._next: dict[Any, int | None] = {}  # what the database is at, once what was handed out is committed
        self._handed: set[Any] = set()
        self._expected: dict[tuple[str, int, int], int | None] = {}
        self._told: dict[Any, int] = {}
        self._told_at = self._looked_at = time.monotonic()

    def poll(self, *, timeout_s: float, limit: int = 16) -> Sequence[Received]:
        """As the port says.

        Raises:
            Busy: Kafka or the database is away, or a topic doesn't exist.
        """
        deadline = time.monotonic() + timeout_s
        with trouble_is_busy():
            if self._handed:
                self._align(self._handed)
                self._handed = set()
                self._expected.clear()
            while not self._stop.is_set():
                wait_s = max(0.0, min(_SLICE_S, deadline - time.monotonic()))
                records = self._client().poll(timeout_ms=int(wait_s * 1000), max_records=limit)
                _finish_joining(self._kafka)
                if self._listener.take():  # what came is from where Kafka's group was
                    self._next = {}
                    self._align(self._kafka.assignment())
                    continue
                if records:
                    return self._hand_out(records)
                self._tell_lag()
                if time.monotonic() >= deadline:
                    self._look()
                    break
        return ()

    def commit(self, connection: Any, received: Received) -> None:
        place = (received.topic, received.partition, received.offset)
        if place not in self._expected:
            raise Retry("the message was not handed out by this member's last poll")
        expected, row = self._expected[place], partition_offsets.c
        if expected is None:
            first = insert(connection, partition_offsets).values(
                consumer_group=self._group,
                topic=received.topic,
                partition=received.partition,
                offset=received.offset + 1,
            )
            done = connection.execute(first.on_conflict_do_nothing())
        else:
            done = connection.execute(
                sa.update(partition_offsets)
                .where(
                    row.consumer_group == self._group,
                    row.topic == received.topic,
                    row.partition == received.partition,
                    row.offset == expected,
                )
                .values(offset=received.offset + 1)
            )
        if done.rowcount != 1:
            raise Retry(f"another member of {self._group} is ahead on {received.topic}@{received.partition}")

    def dead_letter(self, connection: Any, received: Received, reason: str, attempt: int = 1) -> None:
        self.commit(connection, received)
        publisher, now = OutboxPublisher(self._clock), self._clock.now()
        keep(connection, publisher, received, group=self._group, reason=reason, attempt=attempt, now=now)

    def close(self) -> None:
        """Leaves the group, so that the others take over at once."""
        if self._kafka is None:
            return
        try:
            if self._handed:
                self._align(self._handed)
            self._tell_lag(now=True)
        except (Busy, KafkaError):
            pass  # only for those who watch; the next member goes by the database
        finally:
            self._kafka.close(autocommit=False, timeout_ms=_CLOSE_MS)
            self._kafka = None

    def _client(self) -> Any:
        if self._kafka is None:
            self._kafka = KafkaConsumer(
                **self._servers.options,
                group_id=self._servers.group(self._group),
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                allow_auto_create_topics=False,
                session_timeout_ms=_SESSION_MS,
                heartbeat_interval_ms=_HEARTBEAT_MS,
                max_poll_interval_ms=_MOST_PAUSE_MS,
                max_partition_fetch_bytes=_REFETCH_BYTES,
                fetch_max_bytes=MAX_MESSAGE_BYTES,
            )
            self._kafka.subscribe([self._servers.topic(name) for name in self._topics], listener=self._listener)
        return self._kafka

    def _align(self, partitions: Iterable[Any]) -> None:
        """Sets Kafka's client to where the database is; a partition without a row begins with its oldest message.

        Raises:
            Busy: the database is away.
        """
        mine = self._client().assignment()
        wanted = [partition for partition in partitions if partition in mine]
        try:
            known = self._positions()
        except Busy:
            self._listener.again()
            raise
        for partition in wanted:
            position = known.get((self._servers.name(partition.topic), partition.partition))
            if partition in self._next and position == self._next[partition]:
                continue
            if position is None:
                self._kafka.seek_to_beginning(partition)
            else:
                self._kafka.seek(partition, position)
            self._next[partition] = position

    def _positions(self) -> Mapping[tuple[str, int], int]:
        row = partition_offsets.c
        query = sa.select(row.topic, row.partition, row.offset).where(
            row.consumer_group == self._group, row.topic.in_(self._topics)
        )
        with reading(self._engine) as connection:
            return {(topic, partition): offset for topic, partition, offset in connection.execute(query)}

    def _hand_out(self, records: Mapping[Any, Sequence[Any]]) -> Sequence[Received]:
        found = []
        for partition, batch in records.items():
            name = self._servers.name(partition.topic)
            for record in batch:
                self._expected[(name, record.partition, record.offset)] = self._next[partition]
                self._next[partition] = record.offset + 1
                found.append(_received(name, record))
            self._handed.add(partition)
        return tuple(found)

    def _tell_lag(self, *, now: bool = False) -> None:
        """Commits Kafka's own group offsets, for those who watch the lag: what the database has, once a second."""
        if not now and time.monotonic() - self._told_at < _LAG_S:
            return
        self._told_at = time.monotonic()
        mine = self._kafka.assignment()
        new = {
            partition: position
            for partition, position in self._next.items()
            if position is not None and partition in mine and self._told.get(partition) != position
        }
        if not new:
            return
        offsets = {partition: OffsetAndMetadata(position, "", -1) for partition, position in new.items()}
        if now:
            self._kafka.commit(offsets, timeout_ms=_CLOSE_MS)
        else:
            self._kafka.commit_async(offsets)
        self._told.update(new)

    def _look(self) -> None:
        """From time to time, when nothing came: is there a broker, and are there the topics?"""
        if time.monotonic() - self._looked_at < _LOOK_S:
            return
        self._looked_at = time.monotonic()
        self._servers.check()
        if not self._kafka.assignment():
            known = self._kafka.topics()
            missing = [name for name in self._topics if self._servers.topic(name) not in known]
            if missing:
                raise Busy(f"Kafka has no topic {', '.join(missing)}; make it with: hilum topics")


class _Assignments(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes that the group shared out its partitions anew, until it is asked."""

    def __init__(self) -> None:
        self._changed = threading.Event()

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        """Nothing to finish: what is under way is fenced by the database."""

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        self.again()

    def again(self) -> None:
        self._changed.set()

    def take(self) -> bool:
        """True once after each assignment."""
        changed = self._changed.is_set()
        self._changed.clear()
        return changed


def _finish_joining(client: Any) -> None:
    """Mends a join that kafka-python 3.0 forgets, so that its member would wait for ever, outside the group.

    When changed metadata made it join again and a poll ends before the group's answer, the next poll no longer sees a
    reason to join and leaves the answer unread; meanwhile it sends no heartbeat. Asked once more, it takes the answer.
    """
    coordinator = client._coordinator
    if coordinator.rejoining and not coordinator.need_rejoin():
        coordinator.request_rejoin()


def _received(topic: str, record: Any) -> Received:
    """Bytes that are no UTF-8 become `\\xNN`, which no JSON has: such a message is rejected where it is read."""
    return Received(
        topic=topic,
        offset=record.offset,
        key=_text(record.key),
        payload=_text(record.value),
        headers={name: _text(value) for name, value in record.headers},
        partition=record.partition,
    )


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "backslashreplace")
