"""The embedded event log forgets what everyone has read and what is old, and nothing else."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.sql.database import open_database, transaction
from hilum.adapters.sql.event_retention import forget_consumed
from hilum.adapters.sql.eventlog import SqlConsumer, SqlPublisher
from hilum.adapters.sql.schema import migrate
from hilum.adapters.sql.tables import events
from hilum.contracts.topics import DEAD_LETTERS, FINDINGS_PRODUCED, INFERENCE, STUDY_ENDED, STUDY_READY, TOPICS
from hilum.ports.events import Outgoing
from hilum.testing.clock import SetClock
from hilum_listener.handlers import route
from hilum_results.settings import Settings
from hilum_results.transport import service, upkeep
from hilum_worker.transport import serve

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
WEEK = timedelta(days=7)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    opened = open_database(tmp_path / "hilum.db")
    migrate(opened)
    yield opened
    opened.dispose()


def publish(engine: Engine, topic: str, count: int, *, at: datetime) -> None:
    with transaction(engine) as connection:
        SqlPublisher(SetClock(at)).publish(connection, [Outgoing(topic, "key", "{}")] * count)


def read(engine: Engine, topic: str, group: str, *, leave: int = 0) -> None:
    """The group commits all messages but the last `leave`."""
    consumer = SqlConsumer(engine, group=group, topics=(topic,), clock=SetClock(NOW))
    found = consumer.poll(timeout_s=0, limit=10_000)
    with transaction(engine) as connection:
        for received in found[: len(found) - leave]:
            consumer.commit(connection, received)
    consumer.close()


def forget(engine: Engine, *, limit: int = 200) -> int:
    with transaction(engine) as connection:
        return forget_consumed(connection, before=NOW - WEEK, limit=limit)


def left(engine: Engine) -> int:
    with transaction(engine) as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(events)).scalar_one()


def test_what_was_read_and_is_old_goes_and_what_is_younger_or_unread_stays(engine: Engine) -> None:
    publish(engine, STUDY_ENDED.name, 3, at=NOW - WEEK - timedelta(seconds=1))
    publish(engine, STUDY_ENDED.name, 2, at=NOW - WEEK)
    read(engine, STUDY_ENDED.name, "results", leave=1)
    assert forget(engine) == 3
    assert left(engine) == 2


def test_a_message_that_its_group_has_not_committed_stays_however_old(engine: Engine) -> None:
    publish(engine, FINDINGS_PRODUCED.name, 2, at=NOW - 10 * WEEK)
    assert forget(engine) == 0
    read(engine, FINDINGS_PRODUCED.name, "another")
    assert forget(engine) == 0
    read(engine, FINDINGS_PRODUCED.name, "results", leave=1)
    assert forget(engine) == 1
    assert left(engine) == 1


def test_a_second_group_on_the_topic_is_waited_for(engine: Engine) -> None:
    publish(engine, STUDY_READY.name, 2, at=NOW - 2 * WEEK)
    read(engine, STUDY_READY.name, "listener.route")
    read(engine, STUDY_READY.name, "audit", leave=1)
    assert forget(engine) == 1


def test_batches_are_small_and_an_offset_is_never_used_again(engine: Engine) -> None:
    publish(engine, STUDY_ENDED.name, 25, at=NOW - 2 * WEEK)
    read(engine, STUDY_ENDED.name, "results")
    assert [forget(engine, limit=10) for _ in range(4)] == [10, 10, 5, 0]
    publish(engine, STUDY_ENDED.name, 1, at=NOW)
    consumer = SqlConsumer(engine, group="results", topics=(STUDY_ENDED.name,), clock=SetClock(NOW))
    assert [received.offset for received in consumer.poll(timeout_s=0)] == [26]
    consumer.close()


def test_the_results_service_forgets_batch_after_batch(engine: Engine, tmp_path: Path) -> None:
    publish(engine, STUDY_ENDED.name, 450, at=NOW - 2 * WEEK)
    read(engine, STUDY_ENDED.name, "results")
    settings = Settings(data=tmp_path)
    assert upkeep.forget_old_events(settings, engine, SetClock(NOW), threading.Event()) == 450
    assert left(engine) == 0


def test_the_topics_name_the_groups_that_the_services_read_with() -> None:
    assert STUDY_READY.groups == (route.GROUP,)
    assert {topic.groups for topic in INFERENCE.values()} == {(serve.GROUP,)}
    assert FINDINGS_PRODUCED.groups == STUDY_ENDED.groups == (service.GROUP,)
    assert [topic for topic in TOPICS if not topic.groups] == [DEAD_LETTERS]


def test_what_nobody_has_to_read_goes_when_it_is_old(engine: Engine) -> None:
    publish(engine, DEAD_LETTERS.name, 2, at=NOW - 2 * WEEK)
    publish(engine, DEAD_LETTERS.name, 1, at=NOW)
    assert forget(engine) == 2
    assert left(engine) == 1
