"""The relay: from the outbox in PostgreSQL to Kafka, in order for each key, by one process at a time.

Every service process runs one. The one that holds an advisory lock leads; when its process or its session ends, the
lock is free and the next leads within a second. A leader that is paused loses its session to `idle_session_timeout`,
and with it the lock. What it had sent by then may arrive a second time: consumers are idempotent.

The order: rows go to one idempotent producer by their ids, and a row is deleted once Kafka has it and everything
before it with the same key. So the first time that a message arrives, all before it have arrived.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
import sqlalchemy as sa
from kafka import KafkaProducer  # type: ignore[import-untyped]
from kafka.errors import (  # type: ignore[import-untyped]
    InvalidTopicError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)
from sqlalchemy import Connection, Engine

from hilum.adapters.kafka.servers import Servers
from hilum.adapters.sql import outbox
from hilum.adapters.sql.database import passing_trouble_is_busy, reading, transaction
from hilum.adapters.sql.dead_letters import keep
from hilum.adapters.sql.outbox import OutboxPublisher, Waiting
from hilum.contracts.topics import MAX_MESSAGE_BYTES
from hilum.domain.errors import Busy
from hilum.ports.clock import Clock
from hilum.ports.events import Received
from hilum.runtime.logs import Log

GROUP = "outbox"
"""Under which name a message that Kafka can never take is a dead letter."""
_LOCK = 0x48494C55
_IDLE_LIMIT = "5s"
_SWEEP_S = 1.0
_LONGEST_PAUSE_S = 5.0
_BATCH = 500
_ROOM_BYTES = 2**20
_NEVER_MS = 7 * 24 * 3600 * 1000
_HOPELESS = (MessageSizeTooLargeError, RecordListTooLargeError, InvalidTopicError)


class Relay:
    """To be run by one thread."""

    def __init__(self, engine: Engine, servers: Servers, *, clock: Clock, stop: threading.Event, log: Log) -> None:
        self._engine = engine
        self._servers = servers
        self._clock = clock
        self._stop = stop
        self._log = log
        self._producer: Any = None
        self._sent: dict[int, Any] = {}

    def run(self) -> None:
        """Leads whenever it can, until `stop` is set. Trouble with Kafka or the database is waited for, and said."""
        pause_s = _SWEEP_S
        while not self._stop.is_set():
            try:
                with self._session() as session:
                    while not self._stop.is_set() and not session.lead():
                        self._stop.wait(_SWEEP_S)
                    while not self._stop.is_set():
                        if self.forward(session) < _BATCH:
                            session.wait(_SWEEP_S)
                        pause_s = _SWEEP_S
            except Busy as error:
                self._log.warning("outbox waits", reason=error.reason, seconds=pause_s)
                self._stop.wait(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        self.close()

    def forward(self, session: "Session | None" = None) -> int:
        """Publishes the oldest rows and deletes what Kafka has; how many rows there were.

        Raises:
            Busy: Kafka or the database is away, or a topic doesn't exist. What is sent stays under way.
        """
        with reading(self._engine) as connection:
            rows = outbox.waiting(connection, limit=_BATCH)
        here = {row.id for row in rows}
        self._sent = {id_: future for id_, future in self._sent.items() if id_ in here}
        try:
            for row in rows:
                if row.id not in self._sent:
                    self._sent[row.id] = self._send(row)
            self._wait([self._sent[row.id] for row in rows], session)
        except KafkaError as error:  # the producer may never recover from it
            self.close()
            raise Busy(f"Kafka is away: {type(error).__name__}") from error
        finally:
            self._settle(rows)
        return len(rows)

    def close(self) -> None:
        if self._producer is not None:
            self._producer.close(timeout=0)  # what Kafka hasn't confirmed is still in the outbox
            self._producer = None
        self._sent.clear()

    def _send(self, row: Waiting) -> Any:
        message, producer = row.message, self._open()
        try:
            return producer.send(
                self._servers.topic(message.topic),
                key=message.key.encode(),
                value=message.payload.encode("utf-8", "surrogatepass"),
                headers=[(name, value.encode()) for name, value in message.headers.items()],
            )
        except KafkaTimeoutError as error:  # it found no partition in time
            self._servers.check()
            reason = f"Kafka names no partition of {message.topic}; is the topic there? hilum topics makes it"
            raise Busy(reason) from error
        except _HOPELESS as error:
            return _Failed(error)

    def _wait(self, futures: Sequence[Any], session: "Session | None") -> None:
        """Until Kafka has confirmed or refused all of them, or the lead is lost."""
        began = said = time.monotonic()
        for future in futures:
            while not future.is_done:
                if self._stop.is_set():
                    return
                _until_done(future, _SWEEP_S)
                if session is not None and not future.is_done:
                    session.keep()
                    if time.monotonic() - said >= _LONGEST_PAUSE_S:
                        said = time.monotonic()
                        reason, waited_s = "Kafka confirms nothing", round(said - began)
                        self._log.warning("outbox waits", reason=reason, seconds=waited_s, count=len(futures))

    def _settle(self, rows: Sequence[Waiting]) -> None:
        """Deletes what Kafka has; makes a dead letter of what it can never take."""
        arrived, hopeless, behind = [], [], set()
        broken = False
        for row in rows:
            future = self._sent.get(row.id)
            if future is None or not future.is_done or row.message.key in behind:
                behind.add(row.message.key)
            elif future.succeeded():
                arrived.append(row.id)
            elif isinstance(future.exception, _HOPELESS):
                hopeless.append((row, future.exception))
            else:
                behind.add(row.message.key)
                broken = True
        if arrived or hopeless:
            with transaction(self._engine) as connection:
                outbox.remove(connection, [*arrived, *(row.id for row, _error in hopeless)])
                for row, error in hopeless:
                    self._give_up(connection, row, error)
        for id_ in [*arrived, *(row.id for row, _error in hopeless)]:
            self._sent.pop(id_, None)
        if broken:  # sent again, in order, by a producer that knows nothing of it
            self.close()

    def _give_up(self, connection: Connection, row: Waiting, error: KafkaError) -> None:
        message, reason = row.message, f"Kafka can't take it ({type(error).__name__})"
        received = Received(message.topic, row.id, message.key, message.payload, message.headers)
        publisher = OutboxPublisher(self._clock)
        keep(connection, publisher, received, group=GROUP, reason=reason, attempt=1, now=self._clock.now())
        self._log.error("dead letter", topic=message.topic, offset=row.id, study=message.key, reason=reason)

    def _open(self) -> Any:
        if self._producer is None:
            self._producer = KafkaProducer(
                **self._servers.options,
                acks="all",
                enable_idempotence=True,
                delivery_timeout_ms=_NEVER_MS,  # a batch that gave up would let the next one overtake it
                max_block_ms=int(_SWEEP_S * 2000),
                max_request_size=MAX_MESSAGE_BYTES + _ROOM_BYTES,
                compression_type="gzip",
                allow_auto_create_topics=False,
            )
        return self._producer

    @contextmanager
    def _session(self) -> Iterator["Session"]:
        """A session of its own, which never goes back to the pool: it holds the lock."""
        with passing_trouble_is_busy(), self._engine.connect() as connection:
            own = connection.execution_options(isolation_level="AUTOCOMMIT")
            own.detach()
            yield Session(own)


class Session:
    """The leader's session: its lock, and what wakes it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        connection.exec_driver_sql(f"SET idle_session_timeout = '{_IDLE_LIMIT}'")
        connection.exec_driver_sql(f"LISTEN {outbox.CHANNEL}")

    def lead(self) -> bool:
        """True when this session holds the lock."""
        return bool(self._connection.execute(sa.select(sa.func.pg_try_advisory_lock(_LOCK))).scalar_one())

    def keep(self) -> None:
        """Shows that the process is alive."""
        self._connection.execute(sa.select(1))

    def wait(self, timeout_s: float) -> None:
        """Until a transaction wrote to the outbox, or for a while."""
        driver = self._connection.connection.dbapi_connection
        assert isinstance(driver, psycopg.Connection)
        for _ in driver.notifies(timeout=timeout_s, stop_after=1):
            pass
        self.keep()


class _Failed:
    """Stands for the future of a message that could not be sent at all."""

    is_done = True

    def __init__(self, exception: KafkaError) -> None:
        self.exception = exception

    def succeeded(self) -> bool:
        return False


def _until_done(future: Any, timeout_s: float) -> None:
    with suppress(KafkaError):  # the future says how it ended
        future.get(timeout=timeout_s)
