"""What only the cluster's event log can meet: a broker that dies, rebalances, two relays, duplicates, foreign bytes."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import trustme
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition  # type: ignore[import-untyped]
from sqlalchemy import Connection, Engine

from hilum.adapters.kafka.consumer import LogConsumer
from hilum.adapters.kafka.relay import Relay
from hilum.adapters.kafka.servers import Servers
from hilum.adapters.kafka.topics import TopicAdmin
from hilum.adapters.sql import outbox
from hilum.adapters.sql.database import reading, transaction
from hilum.adapters.sql.dead_letters import letters
from hilum.contracts.messages import StudyEnded
from hilum.contracts.topics import MAX_MESSAGE_BYTES
from hilum.domain.errors import Busy, Reject, Retry
from hilum.ports.events import Consumer, Outgoing, Received
from hilum.runtime.cluster import Cluster, SecretMissing
from hilum.runtime.consume import consume
from hilum.runtime.logs import Log
from hilum.testing.clock import SetClock
from hilum.testing.event_logs import KafkaSide
from hilum.testing.external import wait_until
from hilum.testing.kafka import Kafka, Secured
from hilum.testing.postgresql import Database, postgresql

CLOCK = SetClock(datetime(2026, 11, 24, 12, tzinfo=UTC))
PATIENCE_S = 90.0
HANDLED = sa.Table(
    "handled",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("member", sa.Text),
    sa.Column("key", sa.Text),
    sa.Column("number", sa.Integer),
)
"""What the handlers of these tests write, in the transaction of the offset."""


@pytest.fixture
def set_clock() -> SetClock:
    return CLOCK


@pytest.fixture
def own_side(postgresql_database: Database, kafka_alone: Kafka) -> Iterator[KafkaSide]:
    """On a broker of the test's own."""
    engine = postgresql_database.open(pool_size=20)
    side = KafkaSide(engine, kafka_alone.bootstrap, CLOCK)
    yield side
    side.close()
    engine.dispose()


@dataclass
class Running:
    """Threads of a test, each with its own stop."""

    stop: threading.Event
    thread: threading.Thread
    errors: list[BaseException]

    def end(self) -> None:
        self.stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive()
        assert self.errors == []


def start(work: Callable[[threading.Event], None]) -> Running:
    stop, errors = threading.Event(), list[BaseException]()

    def guarded() -> None:
        try:
            work(stop)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    return Running(stop, thread, errors)


@contextmanager
def running(*works: Callable[[threading.Event], None]) -> Iterator[list[Running]]:
    started = [start(work) for work in works]
    try:
        yield started
    finally:
        for one in started:
            one.stop.set()
        for one in started:
            one.end()


def member(side: KafkaSide, name: str, *, pause_s: float = 0.0) -> Callable[[threading.Event], None]:
    """A member of the group `g` that writes down what it handled."""

    def handle(connection: Connection, received: Received) -> None:
        time.sleep(pause_s)
        connection.execute(sa.insert(HANDLED).values(member=name, key=received.key, number=int(received.payload)))

    def work(stop: threading.Event) -> None:
        reader = LogConsumer(side.engine, side.servers, group="g", topics=("a",), clock=CLOCK, stop=stop)
        try:
            consume(reader, handle, transaction=lambda: transaction(side.engine), stop=stop, log=Log("hilum.test"))
        finally:
            reader.close()

    return work


def relaying(side: KafkaSide) -> Callable[[threading.Event], None]:
    return lambda stop: side.relay(stop).run()


def publish(side: KafkaSide, numbers: Sequence[int], *, keys: int = 7) -> None:
    """Each number in a transaction of its own, under the key of its remainder."""
    for number in numbers:
        with transaction(side.engine) as connection:
            side.publisher.publish(connection, [Outgoing("a", f"key {number % keys}", str(number))])


def handled(engine: Engine) -> list[tuple[str, str, int]]:
    with reading(engine) as connection:
        query = sa.select(HANDLED.c.member, HANDLED.c.key, HANDLED.c.number).order_by(HANDLED.c.id)
        return [(row.member, row.key, row.number) for row in connection.execute(query)]


def prepare(side: KafkaSide) -> None:
    HANDLED.create(side.engine)


def all_once_and_in_order(engine: Engine, count: int) -> bool:
    rows = handled(engine)
    for key in {key for _member, key, _number in rows}:
        numbers = [number for _member, of, number in rows if of == key]
        assert numbers == sorted(set(numbers)), f"{key}: {numbers}"
    return len(rows) == count


def test_a_broker_that_is_killed_and_comes_back_costs_time_and_nothing_else(
    own_side: KafkaSide, kafka_alone: Kafka
) -> None:
    side, count = own_side, 300
    prepare(side)
    with running(relaying(side), member(side, "one"), lambda _stop: publish(side, range(count))):
        wait_until(lambda: len(handled(side.engine)) > 20, timeout_s=PATIENCE_S, what="the first messages")
        kafka_alone.kill()
        kafka_alone.start()
        wait_until(lambda: all_once_and_in_order(side.engine, count), timeout_s=PATIENCE_S, what="every message")


def test_a_database_that_is_killed_and_comes_back_costs_time_and_nothing_else(kafka_broker: Kafka) -> None:
    count = 300
    with postgresql() as server:
        engine = server.database().open(pool_size=20)
        side = KafkaSide(engine, kafka_broker.bootstrap, CLOCK)
        prepare(side)
        publish(side, range(count))
        with running(relaying(side), member(side, "one", pause_s=0.01), relaying(side)):
            wait_until(lambda: len(handled(engine)) > 20, timeout_s=PATIENCE_S, what="the first messages")
            server.kill()
            time.sleep(1)
            server.start()
            wait_until(lambda: all_once_and_in_order(engine, count), timeout_s=PATIENCE_S, what="every message")
        side.close()
        engine.dispose()


def test_a_broker_that_stands_still_for_longer_than_every_timeout_costs_time_and_nothing_else(
    own_side: KafkaSide, kafka_alone: Kafka
) -> None:
    side, count = own_side, 200
    prepare(side)
    with running(relaying(side), member(side, "one"), lambda _stop: publish(side, range(count))):
        wait_until(lambda: len(handled(side.engine)) > 20, timeout_s=PATIENCE_S, what="the first messages")
        kafka_alone.process.popen.send_signal(signal.SIGSTOP)
        time.sleep(13)  # a request may take ten seconds, a member's session six
        kafka_alone.process.popen.send_signal(signal.SIGCONT)
        wait_until(lambda: all_once_and_in_order(side.engine, count), timeout_s=PATIENCE_S, what="every message")


def test_a_member_whose_polls_are_short_joins_all_the_same(postgresql_database: Database, kafka_broker: Kafka) -> None:
    """kafka-python 3.0 forgets a join that a poll was too short for: nine of ten such members never got a partition."""
    engine = postgresql_database.open(pool_size=20)
    for _ in range(3):
        side = KafkaSide(engine, kafka_broker.bootstrap, CLOCK)
        publish(side, [1])
        side.travel()
        reader, deadline = side.consumer(), time.monotonic() + PATIENCE_S
        found: Sequence[Received] = ()
        while not found and time.monotonic() < deadline:
            found = reader.poll(timeout_s=0.002)
        assert [received.payload for received in found] == ["1"]
        side.close()
    engine.dispose()


def test_members_that_come_and_go_share_the_work_and_handle_each_message_once(kafka_side: KafkaSide) -> None:
    """Messages keep coming until the second member has had its share: when a group divides the work is Kafka's."""
    side, count, part = kafka_side, 0, 40
    prepare(side)
    with running(relaying(side), member(side, "one", pause_s=0.005)) as (_relay, one):
        publish(side, range(200))
        count += 200
        wait_until(lambda: len(handled(side.engine)) > 20, timeout_s=PATIENCE_S, what="the first messages")
        with running(member(side, "two", pause_s=0.005)):
            deadline = time.monotonic() + PATIENCE_S
            while count < 400 or not any(row[0] == "two" for row in handled(side.engine)):
                assert time.monotonic() < deadline, "the second member got no work"
                publish(side, range(count, count + part))
                count += part
            one.end()
            wait_until(lambda: all_once_and_in_order(side.engine, count), timeout_s=PATIENCE_S, what="every message")
    assert {row[0] for row in handled(side.engine)} == {"one", "two"}


class Doubled(Servers):
    """Under another group in Kafka, so that both members think that every partition is theirs."""

    def group(self, name: str) -> str:
        return f"{super().group(name)}-doubled"


def two_owners(side: KafkaSide) -> tuple[LogConsumer, Received, LogConsumer, Received]:
    """Two members of one group, each with the same message in hand."""
    side.publish(Outgoing("a", "key", "1"), Outgoing("a", "key", "2"))
    first = side.consumer()
    second = LogConsumer(
        side.engine, Doubled(side.servers.bootstrap, side.servers.prefix), group="g", topics=("a",), clock=CLOCK
    )
    mine, theirs = side.read(first, 2)[0], side.read(second, 2)[0]
    assert mine == theirs
    assert isinstance(first, LogConsumer)
    return first, mine, second, theirs


def test_two_members_never_both_commit_a_message(kafka_side: KafkaSide) -> None:
    first, mine, second, theirs = two_owners(kafka_side)
    with transaction(kafka_side.engine) as connection:
        first.commit(connection, mine)

    def late() -> None:
        with transaction(kafka_side.engine) as connection:
            second.commit(connection, theirs)

    with pytest.raises(Retry, match="another member of g is ahead on a@"):
        late()
    assert [received.payload for received in kafka_side.read(second)] == ["2"]
    second.close()


def test_a_member_waits_for_the_other_s_transaction_and_goes_on_when_that_fails(kafka_side: KafkaSide) -> None:
    first, mine, second, theirs = two_owners(kafka_side)
    began, outcome = threading.Event(), list[str]()

    def late() -> None:
        with transaction(kafka_side.engine) as connection:
            began.set()
            second.commit(connection, theirs)
            outcome.append("committed")

    def fail() -> None:
        with transaction(kafka_side.engine) as connection:
            first.commit(connection, mine)
            thread.start()
            began.wait(10)
            thread.join(0.3)
            assert outcome == []
            raise RuntimeError("on purpose")

    thread = threading.Thread(target=late)
    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    thread.join(10)
    assert outcome == ["committed"]
    second.close()


class Killed(Relay):
    """Dies after Kafka has confirmed and before the database knows."""

    def _settle(self, rows: Sequence[outbox.Waiting]) -> None:
        if all(row.id in self._sent and self._sent[row.id].is_done for row in rows):
            raise KeyboardInterrupt


def test_what_a_relay_that_was_killed_after_the_confirmation_left_arrives_twice(kafka_side: KafkaSide) -> None:
    """A duplicate has an offset of its own; the handlers' keys make it harmless (test_event_log_handlers.py)."""
    side = kafka_side
    with transaction(side.engine) as connection:
        side.publisher.publish(connection, [Outgoing("a", "key", "1"), Outgoing("a", "key", "2")])
    killed = Killed(side.engine, side.servers, clock=CLOCK, stop=threading.Event(), log=Log("hilum.test"))
    with pytest.raises(KeyboardInterrupt):
        wait_until(lambda: relay_works(killed), timeout_s=PATIENCE_S, what="a confirmation")
    killed.close()
    with reading(side.engine) as connection:
        assert outbox.backlog(connection) == (2, CLOCK.now())
    assert [received.payload for received in side.read(side.consumer(), 4)] == ["1", "2", "1", "2"]
    with reading(side.engine) as connection:
        assert outbox.backlog(connection) == (0, None)


def firsts(side: KafkaSide, count: int) -> dict[str, list[int]]:
    """The numbers of each key in the order in which they arrived first."""
    reader, found = side.consumer("look"), dict[str, list[int]]()
    deadline = time.monotonic() + PATIENCE_S
    while sum(map(len, found.values())) < count and time.monotonic() < deadline:
        batch = reader.poll(timeout_s=0.5, limit=200)
        for received in batch:
            numbers = found.setdefault(received.key, [])
            if int(received.payload) not in numbers:
                numbers.append(int(received.payload))
        with transaction(side.engine) as connection:
            for received in batch:
                reader.commit(connection, received)
    return found


def end_sessions_of_the_lead(engine: Engine) -> int:
    """As a cut connection would: whoever holds the relay's lock loses its session."""
    with transaction(engine) as connection:
        held = sa.text(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return int(connection.execute(held).scalar_one())


def test_order_within_a_key_holds_with_two_relays_whose_lead_is_cut_again_and_again(kafka_side: KafkaSide) -> None:
    side, count, part = kafka_side, 400, 80
    with running(relaying(side), relaying(side)):
        for begin in range(0, count, part):
            publish(side, range(begin, begin + part))
            deadline = time.monotonic() + PATIENCE_S
            while not end_sessions_of_the_lead(side.engine):
                assert time.monotonic() < deadline, "nobody took the lead"
                time.sleep(0.02)
        found = firsts(side, count)
    assert found == {f"key {key}": list(range(key, count, 7)) for key in range(7)}


def test_a_second_relay_leads_once_the_first_is_gone(kafka_side: KafkaSide) -> None:
    side = kafka_side
    with side.relay()._session() as one, side.relay()._session() as two:
        assert (one.lead(), two.lead()) == (True, False)
        end_sessions_of_the_lead(side.engine)
        assert two.lead()


def test_a_commit_wakes_the_relay_at_once(kafka_side: KafkaSide, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the sweep comes once in five minutes, so what arrives was announced."""
    monkeypatch.setattr("hilum.adapters.kafka.relay._SWEEP_S", 300.0)
    monkeypatch.setattr("hilum.adapters.kafka.relay._IDLE_LIMIT", "600s")
    side, reader, relay = kafka_side, kafka_side.consumer(), start(relaying(kafka_side))
    for number in range(5):
        publish(side, [number])
        (received,) = _poll_for(reader)
        assert received.payload == str(number)
        with transaction(side.engine) as connection:
            reader.commit(connection, received)
    relay.stop.set()
    publish(side, [99])  # it looks at its stop when it wakes
    relay.end()


def _poll_for(reader: Consumer) -> Sequence[Received]:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = reader.poll(timeout_s=0.5)
        if found:
            return found
    raise AssertionError("nothing came")


def test_kafka_s_own_group_offset_follows_for_those_who_watch_the_lag(kafka_side: KafkaSide) -> None:
    side = kafka_side
    side.publish(*(Outgoing("a", "key", str(number)) for number in range(3)))
    reader = side.consumer()
    for received in side.read(reader, 3):
        with transaction(side.engine) as connection:
            reader.commit(connection, received)
    reader.close()
    admin = KafkaAdminClient(**side.servers.options)
    offsets: Any = admin.list_group_offsets({side.servers.group("g"): None})
    admin.close()
    assert str(TopicPartition(side.servers.topic("a"), received.partition)) in str(offsets)
    assert "offset=3" in str(offsets)


@pytest.mark.parametrize(
    ("value", "payload"),
    [(b"\xff{}", "\\xff{}"), (None, ""), (b'{"a": "\x00"}', '{"a": "\\u0000"}')],
    ids=["no UTF-8", "no value", "a NUL"],
)
def test_bytes_that_are_no_message_become_a_dead_letter_and_the_next_is_handled(
    kafka_side: KafkaSide, value: bytes | None, payload: str
) -> None:
    side = kafka_side
    prepare(side)
    producer = KafkaProducer(**side.servers.options)
    for content in (value, b"7"):
        producer.send(side.servers.topic("a"), key=b"\x00k", value=content, headers=[("h", b"\xff")]).get(10)
    producer.close()

    def handle(connection: Connection, received: Received) -> None:
        if received.payload != "7":
            raise Reject("no JSON")
        connection.execute(sa.insert(HANDLED).values(member="one", key="", number=7))

    def work(stop: threading.Event) -> None:
        reader = LogConsumer(side.engine, side.servers, group="g", topics=("a",), clock=CLOCK, stop=stop)
        consume(reader, handle, transaction=lambda: transaction(side.engine), stop=stop, log=Log("hilum.test"))
        reader.close()

    with running(work):
        wait_until(lambda: len(handled(side.engine)) == 1, timeout_s=PATIENCE_S, what="the next message")
    with reading(side.engine) as connection:
        (kept,) = letters(connection)
    assert (kept.payload, kept.key, kept.headers) == (payload, "\\u0000k", {"h": "\\xff"})


def test_a_message_that_kafka_can_never_take_becomes_a_dead_letter_and_holds_nobody_up(kafka_side: KafkaSide) -> None:
    side = kafka_side
    large = f'{{"study_instance_uid": "1.2.3", "revision": 1, "x": "{"x" * (MAX_MESSAGE_BYTES + 2**20)}"}}'
    side.publish(Outgoing("a", "key", large), Outgoing("a", "key", "2"))
    assert [received.payload for received in side.read(side.consumer())] == ["2"]
    with reading(side.engine) as connection:
        (kept,) = letters(connection)
    assert (kept.consumer_group, kept.payload, kept.reason) == (
        "outbox",
        large,
        "Kafka can't take it (MessageSizeTooLargeError)",
    )
    (message,) = side.read(side.consumer("other", ("study.ended",)))
    assert StudyEnded.model_validate_json(message.payload).study_instance_uid == "1.2.3"


def test_a_topic_that_is_missing_is_said_and_waited_for(kafka_side: KafkaSide) -> None:
    side = kafka_side
    with transaction(side.engine) as connection:
        side.publisher.publish(connection, [Outgoing("new", "key", "1")])
    relay = side.relay()
    with pytest.raises(Busy, match="Kafka names no partition of new; is the topic there"):
        relay.forward()
    side.make_topics("new")
    assert relay.forward() == 1
    relay.close()
    assert [received.payload for received in side.read(side.consumer("g", ("new",)))] == ["1"]


def test_a_broker_that_is_away_is_said_by_those_who_publish_and_those_who_read(
    own_side: KafkaSide, kafka_alone: Kafka
) -> None:
    side = own_side
    reader = side.consumer()
    assert side.nothing(reader)
    kafka_alone.kill()
    with pytest.raises(Busy, match="Kafka is away"):
        side.nothing(reader, for_s=10)
    with pytest.raises(Busy, match="Kafka is away"):
        side.consumer("new").poll(timeout_s=0.5)
    publish(side, [1])
    relay = side.relay()
    with pytest.raises(Busy, match="Kafka is away"):
        relay.forward()
    kafka_alone.start()
    wait_until(lambda: relay_works(relay), timeout_s=PATIENCE_S, what="the relay's way")
    assert [received.payload for received in side.read(reader)] == ["1"]
    relay.close()


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[tuple[Kafka, Cluster]]:
    """A broker with a port for TLS and SCRAM, and the configuration that meets it, but for the password."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    pkcs8 = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "server.pem").write_bytes(pkcs8 + b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "kafka").mkdir()
    broker = Kafka(tmp_path / "kafka", secured=Secured(tmp_path / "server.pem", "hilum", "geheim"))
    broker.start()
    cluster = Cluster(
        database="postgresql://hilum@127.0.0.1/hilum",
        kafka=(f"127.0.0.1:{broker.secured_port}",),
        kafka_prefix="ward.",
        kafka_ca_file=tmp_path / "ca.pem",
        kafka_user="hilum",
        redis="redis://127.0.0.1",
        instances="/mnt",
    )
    yield broker, cluster
    broker.stop()


def test_kafka_is_met_over_tls_with_a_password(
    secured: tuple[Kafka, Cluster], monkeypatch: pytest.MonkeyPatch, postgresql_database: Database
) -> None:
    cluster = secured[1]
    with pytest.raises(SecretMissing, match="kafka_user needs a password"):
        Servers.of(cluster)
    monkeypatch.setenv("HILUM_KAFKA_PASSWORD", "wrong")
    with pytest.raises(Busy, match="Kafka is away"):
        TopicAdmin(Servers.of(cluster))
    monkeypatch.setenv("HILUM_KAFKA_PASSWORD", "geheim")
    servers = Servers.of(cluster)
    assert "geheim" not in repr(servers)
    engine = postgresql_database.open(pool_size=20)
    side = KafkaSide(engine, (), CLOCK, servers=servers)
    side.publish(Outgoing("a", "key", "1"))
    assert [received.payload for received in side.read(side.consumer())] == ["1"]
    side.close()
    engine.dispose()


def relay_works(relay: Relay) -> bool:
    try:
        relay.forward()
    except Busy:
        return False
    return True


def test_a_session_ends_when_its_process_no_longer_shows_that_it_lives(kafka_side: KafkaSide) -> None:
    with kafka_side.relay()._session() as paused, kafka_side.relay()._session() as other:
        assert paused.lead()
        wait_until(other.lead, timeout_s=PATIENCE_S, what="the lock")
