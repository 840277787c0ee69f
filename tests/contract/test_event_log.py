"""The behaviour of the event log port on each side: SQLite on one machine, PostgreSQL and Kafka in a cluster."""

from datetime import UTC, datetime

import pytest
from sqlalchemy.exc import DBAPIError

from hilum.adapters.sql import ledger
from hilum.adapters.sql.database import transaction
from hilum.adapters.sql.dead_letters import CAUSE, letters, replay
from hilum.contracts.messages import StudyEnded
from hilum.contracts.topics import MAX_MESSAGE_BYTES
from hilum.contracts.trace import TRACEPARENT, begin
from hilum.contracts.unhandled import DeadLetter
from hilum.domain.errors import Busy, Reject, Retry
from hilum.domain.identity import study_key
from hilum.domain.results import AiState
from hilum.ports.events import Outgoing, Received
from hilum.runtime.consume import consume
from hilum.runtime.logs import Log
from hilum.testing.clock import SetClock
from hilum.testing.event_logs import Side

CLOCK = SetClock(datetime(2026, 11, 24, 12, tzinfo=UTC))


@pytest.fixture
def set_clock() -> SetClock:
    return CLOCK


def publish(side: Side, *payloads: str, topic: str = "a") -> None:
    side.publish(*(Outgoing(topic, "key", text) for text in payloads))


def payloads(received: list[Received]) -> list[str]:
    return [message.payload for message in received]


def test_messages_come_in_the_order_in_which_they_were_published(side: Side) -> None:
    publish(side, "1", "2")
    publish(side, "3")
    assert payloads(side.read(side.consumer(), 3)) == ["1", "2", "3"]


def test_what_is_not_committed_comes_again_also_to_a_new_consumer(side: Side) -> None:
    publish(side, "1", "2")
    first = side.consumer()
    one, _ = side.read(first, 2)
    with transaction(side.engine) as connection:
        first.commit(connection, one)
    assert payloads(side.read(first)) == ["2"]
    assert payloads(side.read(first)) == ["2"]
    first.close()
    assert payloads(side.read(side.consumer())) == ["2"]


def test_an_offset_of_a_rolled_back_transaction_is_not_committed(side: Side) -> None:
    publish(side, "1")
    reader = side.consumer()
    (one,) = side.read(reader)

    def fail() -> None:
        with transaction(side.engine) as connection:
            reader.commit(connection, one)
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert payloads(side.read(reader)) == ["1"]


def test_groups_read_apart(side: Side) -> None:
    publish(side, "1")
    first = side.consumer("one")
    (one,) = side.read(first)
    with transaction(side.engine) as connection:
        first.commit(connection, one)
    assert payloads(side.read(side.consumer("two"))) == ["1"]
    assert side.nothing(first)


def test_a_consumer_sees_only_its_topics(side: Side) -> None:
    publish(side, "1", topic="b")
    assert side.nothing(side.consumer())


def test_a_message_comes_with_its_key_its_headers_and_its_place(side: Side) -> None:
    headers = {TRACEPARENT: begin("1.2.3", 1)[TRACEPARENT], "x": "ä"}
    side.publish(Outgoing("a", "key", '{"text": "Ω"}', headers))
    (one,) = side.read(side.consumer())
    assert (one.topic, one.key, one.payload, dict(one.headers)) == ("a", "key", '{"text": "Ω"}', headers)
    assert one.partition >= 0


def test_messages_of_a_rolled_back_transaction_never_existed(side: Side) -> None:
    def fail() -> None:
        with transaction(side.engine) as connection:
            side.publisher.publish(connection, [Outgoing("a", "k", "1")])
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert side.nothing(side.consumer())


def run(side: Side, outcomes: list[Exception | None]) -> tuple[list[str], list[str]]:
    """Consumes with a handler that raises one outcome after the other; what was handled, and the dead letters."""
    handled: list[str] = []
    reader = side.consumer()
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

    try:
        consume(reader, handle, transaction=lambda: transaction(side.engine), stop=stop, log=Log("hilum.test"))  # type: ignore[arg-type]
    finally:
        reader.close()
    with side.engine.connect() as connection:
        return handled, [f"{one.payload}: {one.reason} ({one.attempt})" for one in letters(connection)]


def test_a_rejected_message_goes_to_the_dead_letter_with_its_reason_and_the_next_is_handled(side: Side) -> None:
    publish(side, "bad", "last")
    assert run(side, [Reject("no box"), None]) == (["last"], ["bad: no box (1)"])


def test_a_message_to_retry_comes_again_before_any_other(side: Side) -> None:
    publish(side, "slow", "last")
    assert run(side, [Retry("later"), Busy("away"), None, None]) == (["slow", "last"], [])


def test_a_dead_letter_says_how_often_the_message_was_tried(side: Side) -> None:
    publish(side, "bad", "last")
    assert run(side, [Retry("later"), Busy("away"), Reject("no box"), None]) == (["last"], ["bad: no box (3)"])


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ("x" * (MAX_MESSAGE_BYTES + 1), f"larger than {MAX_MESSAGE_BYTES} bytes"),
        ('{"text": "\\u0000"}', "holds a NUL character, which PostgreSQL can't store"),
    ],
    ids=["too large", "with NUL"],
)
def test_a_message_that_no_handler_can_take_becomes_a_dead_letter_before_any_sees_it(
    side: Side, payload: str, reason: str
) -> None:
    publish(side, payload, "last")
    assert run(side, [None])[0] == ["last"]
    with side.engine.connect() as connection:
        (kept,) = letters(connection)
    assert (kept.payload, kept.reason) == (payload, reason)


def test_a_bug_ends_the_loop_and_commits_nothing(side: Side) -> None:
    publish(side, "1")
    with pytest.raises(ZeroDivisionError):
        run(side, [ZeroDivisionError()])
    assert payloads(side.read(side.consumer())) == ["1"]


def test_if_the_dead_letter_can_not_be_written_the_loop_ends_and_the_message_stays(side: Side) -> None:
    publish(side, "bad", "last")
    with transaction(side.engine) as connection:
        connection.exec_driver_sql("DROP TABLE dead_letters")
    with pytest.raises(DBAPIError):
        run(side, [Reject("no box"), None])
    assert payloads(side.read(side.consumer(), 2)) == ["bad", "last"]


def letter(side: Side, payload: str, reason: str = "no box", headers: dict[str, str] | None = None) -> None:
    """Makes the message a dead letter."""
    side.publish(Outgoing("a", "key", payload, headers or {}))
    reader = side.consumer()
    (received,) = side.read(reader)
    with transaction(side.engine) as connection:
        reader.dead_letter(connection, received, reason)
    reader.close()


NAMES_A_REVISION = '{"study_instance_uid": "1.2.3", "revision": 4, "images": "none at all"}'


def test_a_dead_letter_ends_the_revision_that_it_names_as_failed_with_the_reason(side: Side) -> None:
    letter(side, NAMES_A_REVISION)
    (message,) = side.read(side.consumer("other", ("study.ended",)))
    ended = StudyEnded.model_validate_json(message.payload)
    assert (ended.study_instance_uid, ended.revision, ended.state) == ("1.2.3", 4, AiState.FAILED)
    assert ended.reason == "a message about it could not be handled (a): no box"
    assert (ended.ended_at, message.key) == (CLOCK.now(), study_key("1.2.3"))


def test_the_topic_of_dead_letters_tells_about_it_without_its_content(side: Side) -> None:
    trace = begin("1.2.3", 4)
    letter(side, NAMES_A_REVISION, headers={**trace, "other": "stays behind"})
    (message,) = side.read(side.consumer("watch", ("dead.letters",)))
    told = DeadLetter.model_validate_json(message.payload)
    assert (told.consumer_group, told.topic, told.reason, told.attempt) == ("g", "a", "no box", 1)
    assert (told.study_instance_uid, told.revision, told.payload_bytes) == ("1.2.3", 4, len(NAMES_A_REVISION))
    assert "none at all" not in message.payload
    assert message.key == "key"
    assert dict(message.headers) == {**trace, CAUSE: f"a@{told.partition}:{told.offset}"}


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
def test_a_dead_letter_that_names_no_revision_is_only_kept(side: Side, payload: str) -> None:
    letter(side, payload)
    assert side.nothing(side.consumer("other", ("study.ended",)))
    with side.engine.connect() as connection:
        assert ledger.count_dead_letters(connection) == 1


def test_a_dead_letter_and_the_end_that_it_causes_exist_together_or_not_at_all(side: Side) -> None:
    publish(side, NAMES_A_REVISION)
    reader = side.consumer()
    (received,) = side.read(reader)

    def fail() -> None:
        with transaction(side.engine) as connection:
            reader.dead_letter(connection, received, "no box")
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert side.nothing(side.consumer("other", ("study.ended",)))
    with side.engine.connect() as connection:
        assert ledger.count_dead_letters(connection) == 0
    assert payloads(side.read(reader)) == [NAMES_A_REVISION]


def test_an_end_that_becomes_a_dead_letter_itself_causes_no_other(side: Side) -> None:
    letter(side, NAMES_A_REVISION)
    reader = side.consumer("other", ("study.ended",))
    (message,) = side.read(reader)
    with transaction(side.engine) as connection:
        reader.dead_letter(connection, message, "no room")
    assert side.nothing(reader)
    with side.engine.connect() as connection:
        assert ledger.count_dead_letters(connection) == 2


def test_a_dead_letter_is_published_again_once_as_it_was(side: Side) -> None:
    headers = begin("1.2.3", 4)
    letter(side, NAMES_A_REVISION, headers=headers)
    done = []
    for _ in range(2):
        with transaction(side.engine) as connection:
            (kept,) = letters(connection)
            done.append(replay(connection, side.publisher, kept, now=CLOCK.now()))
    assert done == [True, False]
    reader = side.consumer()
    (again,) = side.read(reader)
    assert (again.topic, again.key, again.payload) == ("a", "key", NAMES_A_REVISION)
    assert dict(again.headers) == {**headers, "replay-of": str(kept.id)}
    with transaction(side.engine) as connection:
        assert letters(connection, open_only=True) == []
        reader.commit(connection, again)
    assert side.nothing(reader)
