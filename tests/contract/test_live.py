"""The behaviour of live updates: by looking into SQLite or PostgreSQL, and by a real Redis that comes and goes."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.redis.announce import CHANNEL, RedisAnnouncer
from hilum.adapters.redis.live import RedisLive
from hilum.adapters.sql.announce import announce_commits
from hilum.adapters.sql.changes import Changes
from hilum.adapters.sql.database import is_postgresql, reading, transaction
from hilum.adapters.sql.live import PolledLive
from hilum.adapters.sql.tables import journal_positions
from hilum.ports.live import Live
from hilum.testing.external import wait_until
from hilum.testing.postgresql import Database
from hilum.testing.redis import RedisServer, redis_server


def commit(engine: Engine, name: str) -> None:
    with transaction(engine) as connection:
        connection.execute(sa.insert(journal_positions).values(journal=name, position=1))


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def writer(postgresql_database: Database, redis: RedisServer) -> Iterator[Engine]:
    """Another service of the cluster: its commits are announced."""
    engine = postgresql_database.open()
    announcer = RedisAnnouncer(redis.url_with_password)
    announce_commits(engine, announcer)
    yield engine
    announcer.close()
    engine.dispose()


@pytest.fixture
def heard(writer: Engine, redis: RedisServer) -> Iterator[RedisLive]:
    """By Redis alone: what it sees in the database never changes."""
    live = RedisLive(redis.url_with_password, lambda: None)
    wait_until(lambda: live.trusted)
    time.sleep(1)
    yield live
    live.close()


@pytest.fixture
def looked(engine: Engine) -> Iterator[PolledLive]:
    live = PolledLive(Changes(engine).version, every_s=0.1)
    time.sleep(0.5)
    yield live
    live.close()


def hears(live: Live, do: Callable[[], None], *, within_s: float) -> float:
    """Seconds until it heard."""
    before, started = live.number, time.monotonic()
    do()
    wait_until(lambda: live.number > before, timeout_s=within_s, what="the change to be heard of")
    return time.monotonic() - started


def test_a_commit_is_heard_of_by_looking(engine: Engine, looked: PolledLive) -> None:
    for name in ("a", "b"):
        hears(looked, lambda of=name: commit(engine, of), within_s=3)  # type: ignore[misc]


def test_a_commit_of_another_service_is_heard_of_by_redis(writer: Engine, heard: RedisLive) -> None:
    hears(heard, lambda: commit(writer, "a"), within_s=1)


def test_while_nothing_is_committed_nothing_is_heard(engine: Engine, looked: PolledLive) -> None:
    before = looked.number
    with reading(engine) as connection:
        connection.execute(sa.select(journal_positions)).all()
    time.sleep(0.5)
    own_work = 2 if is_postgresql(engine) else 0  # a server may have transactions of its own
    assert looked.number - before <= own_work


def test_reading_announces_nothing(writer: Engine, heard: RedisLive) -> None:
    before = heard.number
    with reading(writer) as connection:
        connection.execute(sa.select(journal_positions)).all()
    time.sleep(0.7)
    assert heard.number == before


def test_a_message_says_that_something_changed_and_nothing_else(writer: Engine, redis: RedisServer) -> None:
    with redis.client() as client, client.pubsub() as channel:
        channel.subscribe(CHANNEL)
        channel.get_message(timeout=2)
        commit(writer, "Doe^Jane")
        message = channel.get_message(timeout=3)
    assert message is not None
    assert message["data"] == b"changed"


def test_many_commits_are_few_messages(writer: Engine, redis: RedisServer) -> None:
    with redis.client() as client, client.pubsub() as channel:
        channel.subscribe(CHANNEL)
        channel.get_message(timeout=2)
        for number in range(200):
            commit(writer, f"n{number}")
        started, count = time.monotonic(), 0
        while time.monotonic() - started < 1:
            count += channel.get_message(timeout=0.1) is not None
    assert 1 <= count <= 20


@pytest.mark.parametrize("trouble", [RedisServer.kill, RedisServer.pause], ids=["is killed", "hangs"])
def test_when_redis_goes_the_database_is_looked_into_within_seconds(
    writer: Engine, redis: RedisServer, trouble: Callable[[RedisServer], None]
) -> None:
    live = RedisLive(redis.url_with_password, Changes(writer).version)
    wait_until(lambda: live.trusted)
    trouble(redis)
    assert hears(live, lambda: commit(writer, "meanwhile"), within_s=8) < 8
    wait_until(lambda: not live.trusted, timeout_s=8)
    assert hears(live, lambda: commit(writer, "again"), within_s=3) < 3
    live.close()


def test_when_redis_is_back_it_is_heard_again(writer: Engine, redis: RedisServer, heard: RedisLive) -> None:
    redis.kill()
    wait_until(lambda: not heard.trusted, timeout_s=8)
    redis.start()
    wait_until(lambda: heard.trusted, timeout_s=8)
    time.sleep(1.5)  # the announcer's pause
    hears(heard, lambda: commit(writer, "later"), within_s=3)


def test_announcing_takes_no_time_while_redis_hangs(writer: Engine, redis: RedisServer) -> None:
    redis.pause()
    started = time.monotonic()
    for number in range(20):
        commit(writer, f"n{number}")
    assert time.monotonic() - started < 2
