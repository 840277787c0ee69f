"""Services whose machines disagree about the time agree on the database's."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from hilum.adapters.sql.clock import DatabaseClock, clock_of
from hilum.adapters.sql.database import database_path, open_database
from hilum.domain.errors import Busy
from hilum.ports.clock import SystemClock
from hilum.testing.postgresql import Database, postgresql

CLOSE = timedelta(seconds=0.2)


class Monotonic:
    """A machine's seconds since its start, as a test sets them."""

    def __init__(self, at_s: float) -> None:
        self.at_s = at_s

    def __call__(self) -> float:
        return self.at_s


def test_one_machine_needs_no_other_clock_than_its_own(tmp_path: Path) -> None:
    assert isinstance(clock_of(open_database(database_path(tmp_path))), SystemClock)


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_it_tells_the_database_s_time(engine: Engine) -> None:
    clock = clock_of(engine)
    assert isinstance(clock, DatabaseClock)
    first, second = clock.now(), clock.now()
    assert first.tzinfo is UTC
    assert first <= second
    assert abs(first - datetime.now(UTC)) < CLOSE  # the server under test runs on this machine


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_machines_that_started_at_other_times_agree(engine: Engine) -> None:
    one, other = DatabaseClock(engine, monotonic_s=Monotonic(5)), DatabaseClock(engine, monotonic_s=Monotonic(9e6))
    assert abs(one.now() - other.now()) < CLOSE


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_between_two_looks_its_own_monotonic_clock_carries_it_on(engine: Engine) -> None:
    monotonic = Monotonic(100)
    clock = DatabaseClock(engine, monotonic_s=monotonic, every_s=10)
    began = clock.now()
    monotonic.at_s += 9
    assert clock.now() - began == timedelta(seconds=9)
    monotonic.at_s += 2  # it is asked again, and its own clock turns out to have been fast
    assert abs(clock.now() - began) < CLOSE


def test_while_the_database_is_away_it_goes_on_and_before_the_first_answer_it_is_busy() -> None:
    with postgresql() as server:
        database = server.database(schema=False)
        engine, fresh = database.open(), database.open()
        monotonic = Monotonic(0)
        clock = DatabaseClock(engine, monotonic_s=monotonic, every_s=5)
        began = clock.now()
        server.stop()
        monotonic.at_s += 60
        assert clock.now() - began == timedelta(seconds=60)
        with pytest.raises(Busy):
            DatabaseClock(fresh).now()
        server.start()
        monotonic.at_s += 6
        assert abs(clock.now() - datetime.now(UTC)) < CLOSE
        engine.dispose()
        fresh.dispose()


def test_a_slow_answer_does_not_move_it(postgresql_database: Database) -> None:
    """Half of a long round trip may be anywhere in it."""
    engine = postgresql_database.open()
    monotonic = Monotonic(0)
    clock = DatabaseClock(engine, monotonic_s=monotonic, every_s=5)
    began = clock.now()

    def slow() -> float:
        monotonic.at_s += 10
        return monotonic.at_s

    monotonic.at_s = 6
    clock._monotonic_s = slow
    told = clock.now()
    assert told - began == timedelta(seconds=monotonic.at_s)
    engine.dispose()
