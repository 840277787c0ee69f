"""The behaviour of the event log port, run against each adapter (today: SQLite)."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.sql import ledger, tables
from hilum.adapters.sql.database import open_database, transaction
from hilum.adapters.sql.eventlog import SqlConsumer, SqlPublisher
from hilum.adapters.sql.schema import migrate
from hilum.contracts.messages import StudyEnded
from hilum.domain.errors import Busy, Reject, Retry
from hilum.domain.identity import study_key
from hilum.domain.results import AiState
from hilum.ports.events import Outgoing, Received
from hilum.runtime.consume import consume
from hilum.runtime.logs import Log
from hilum.testing.clock import SetClock

CLOCK = SetClock(datetime(2026, 11, 24, 12, tzinfo=UTC))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    opened = open_database(tmp_path / "hilum.db")
    migrate(opened)
    yield opened
    opened.dispose()


def consumer(engine: Engine, group: str = "g", topics: tuple[str, ...] = ("a",)) -> SqlConsumer:
    return SqlConsumer(engine, group=group, topics=topics, clock=CLOCK)


def publish(engine: Engine, *payloads: str, topic: str = "a") -> None:
    with transaction(engine) as connection:
        SqlPublisher(CLOCK).publish(connection, [Outgoing(topic, "key", text) for text in payloads])


def payloads(received: object) -> list[str]:
    assert isinstance(received, tuple)
    return [message.payload for message in received]


def test_messages_come_in_the_order_in_which_they_were_published(engine: Engine) -> None:
    publish(engine, "1", "2")
    publish(engine, "3")
    assert payloads(consumer(engine).poll(timeout_s=0)) == ["1", "2", "3"]


def test_what_is_not_committed_comes_again_also_to_a_new_consumer(engine: Engine) -> None:
    publish(engine, "1", "2")
    first = consumer(engine)
    one, _ = first.poll(timeout_s=0)
    with transaction(engine) as connection:
        first.commit(connection, one)
    assert payloads(first.poll(timeout_s=0)) == ["2"]
    assert payloads(consumer(engine).poll(timeout_s=0)) == ["2"]


def test_groups_read_apart(engine: Engine) -> None:
    publish(engine, "1")
    first = consumer(engine, "one")
    with transaction(engine) as connection:
        first.commit(connection, first.poll(timeout_s=0)[0])
    assert payloads(consumer(engine, "two").poll(timeout_s=0)) == ["1"]


def test_a_consumer_sees_only_its_topics(engine: Engine) -> None:
    publish(engine, "1", topic="b")
    assert payloads(consumer(engine).poll(timeout_s=0)) == []


def test_messages_of_a_rolled_back_transaction_never_existed(engine: Engine) -> None:
    def fail() -> None:
        with transaction(engine) as connection:
            SqlPublisher(CLOCK).publish(connection, [Outgoing("a", "k", "1")])
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert payloads(consumer(engine).poll(timeout_s=0)) == []


def run(engine: Engine, outcomes: list[Exception | None]) -> tuple[list[str], list[str]]:
    """Consumes with a handler that raises one outcome after the other; what was handled, and the dead letters."""
    handled: list[str] = []
    reader = SqlConsumer(engine, group="g", topics=("a",), clock=CLOCK)
    script = iter(outcomes)

    class Stop:
        """Stands for the stop event: set once the script has been played; waiting takes no time."""

        done = False

        def is_set(self) -> bool:
            return self.done

        def wait(self, _timeout: float | None = None) -> bool:
            return self.done

    stop = Stop()

    def handle(_connection: object, received: Received) -> None:
        outcome = next(script)
        if outcome is not None:
            raise outcome
        handled.append(received.payload)
        if received.payload == "last":
            stop.done = True

    consume(reader, handle, transaction=lambda: transaction(engine), stop=stop, log=Log("hilum.test"))  # type: ignore[arg-type]
    with engine.connect() as connection:
        letters = connection.execute(sa.select(tables.dead_letters.c.payload, tables.dead_letters.c.reason)).all()
    return handled, [f"{payload}: {reason}" for payload, reason in letters]


def test_a_rejected_message_goes_to_the_dead_letter_with_its_reason_and_the_next_is_handled(engine: Engine) -> None:
    publish(engine, "bad", "last")
    assert run(engine, [Reject("no box"), None]) == (["last"], ["bad: no box"])


def test_a_message_to_retry_comes_again_before_any_other(engine: Engine) -> None:
    publish(engine, "slow", "last")
    assert run(engine, [Retry("later"), Busy("away"), None, None]) == (["slow", "last"], [])


def test_a_bug_ends_the_loop_and_commits_nothing(engine: Engine) -> None:
    publish(engine, "1")
    with pytest.raises(ZeroDivisionError):
        run(engine, [ZeroDivisionError()])
    assert payloads(consumer(engine).poll(timeout_s=0)) == ["1"]


def letter(engine: Engine, payload: str, reason: str = "no box") -> list[Received]:
    """Makes the message a dead letter; what is on `study.ended` afterwards."""
    publish(engine, payload)
    reader = consumer(engine)
    (received,) = reader.poll(timeout_s=0)
    with transaction(engine) as connection:
        reader.dead_letter(connection, received, reason)
    return list(consumer(engine, "other", ("study.ended",)).poll(timeout_s=0))


def test_a_dead_letter_ends_the_revision_that_it_names_as_failed_with_the_reason(engine: Engine) -> None:
    (message,) = letter(engine, '{"study_instance_uid": "1.2.3", "revision": 4, "images": "none at all"}')
    ended = StudyEnded.model_validate_json(message.payload)
    assert (ended.study_instance_uid, ended.revision, ended.state) == ("1.2.3", 4, AiState.FAILED)
    assert ended.reason == "a message about it could not be handled (a): no box"
    assert (ended.ended_at, message.key) == (CLOCK.now(), study_key("1.2.3"))


@pytest.mark.parametrize(
    "payload",
    [
        "not even JSON",
        "[]",
        '{"study_instance_uid": "1.2.3"}',
        '{"revision": 1}',
        '{"study_instance_uid": "Doe^Jane", "revision": 1}',
        '{"study_instance_uid": "1.2.3", "revision": 0}',
        '{"study_instance_uid": "1.2.3", "revision": 99999999999999999999}',
    ],
)
def test_a_dead_letter_that_names_no_revision_is_only_kept(engine: Engine, payload: str) -> None:
    assert letter(engine, payload) == []
    with engine.connect() as connection:
        assert ledger.count_dead_letters(connection) == 1


def test_a_dead_letter_and_the_end_that_it_causes_exist_together_or_not_at_all(engine: Engine) -> None:
    publish(engine, '{"study_instance_uid": "1.2.3", "revision": 1}')
    reader = consumer(engine)
    (received,) = reader.poll(timeout_s=0)

    def fail() -> None:
        with transaction(engine) as connection:
            reader.dead_letter(connection, received, "no box")
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert payloads(consumer(engine, "other", ("study.ended",)).poll(timeout_s=0)) == []
    with engine.connect() as connection:
        assert ledger.count_dead_letters(connection) == 0


def test_an_end_that_becomes_a_dead_letter_itself_causes_no_other(engine: Engine) -> None:
    (message,) = letter(engine, '{"study_instance_uid": "1.2.3", "revision": 1}')
    reader = consumer(engine, "other", ("study.ended",))
    with transaction(engine) as connection:
        reader.dead_letter(connection, message, "no room")
    assert payloads(reader.poll(timeout_s=0)) == []
    with engine.connect() as connection:
        assert ledger.count_dead_letters(connection) == 2
