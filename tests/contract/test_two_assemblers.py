"""Two listeners of a cluster, each with a spool and an assembler of its own, on one PostgreSQL."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.sql import tables
from hilum.adapters.sql.database import reading
from hilum.domain.errors import Busy
from hilum.testing.clock import SetClock
from hilum.testing.postgresql import Database
from hilum_listener.handlers.journal import JournalWriter
from hilum_listener.handlers.spool_name import spool_name
from hilum_listener.settings import Places
from hilum_listener.testing import QUIET, START, Listener


@pytest.fixture
def engine(postgresql_database: Database) -> Iterator[Engine]:
    opened = postgresql_database.open()
    yield opened
    opened.dispose()


def member(data: Path, engine: Engine) -> Listener:
    """One whose journals carry the name of its spool, as they do where several share the database."""
    made = Listener(Places(data), engine, SetClock(START))
    made.journal = JournalWriter(made.places.journal, started_at=START, spool=spool_name(made.places.spool))
    return made


def rows(engine: Engine, table: sa.Table) -> Sequence[sa.Row[Any]]:
    with reading(engine) as connection:
        return connection.execute(sa.select(table)).all()


def at_once(listeners: Sequence[Listener]) -> None:
    """Each steps once, all started at one moment."""
    barrier = threading.Barrier(len(listeners))

    def step(listener: Listener) -> None:
        barrier.wait()
        for _ in range(20):
            try:
                return listener.step()
            except Busy:
                continue
        raise AssertionError("busy all the time")

    with ThreadPoolExecutor(len(listeners)) as pool:
        list(pool.map(step, listeners))


def test_two_assemblers_fold_one_study_whose_images_came_to_two_receivers(engine: Engine, tmp_path: Path) -> None:
    listeners = [member(tmp_path / name, engine) for name in ("one", "two")]
    for number in range(60):
        listeners[number % 2].image(name=str(number))
    for number in range(60, 66):  # and some to both
        for listener in listeners:
            listener.image(name=str(number), study="other" if number % 3 else "study")

    at_once(listeners)
    assert len(rows(engine, tables.instances)) == 66
    assert len(rows(engine, tables.studies)) == 2
    assert len(rows(engine, tables.journal_positions)) == 2
    assert rows(engine, tables.quarantine) == []
    assert len(rows(engine, tables.removals)) == 6
    for listener in listeners:
        listener.clock.advance(2 * QUIET)
    at_once(listeners)
    found = {row.study_instance_uid: (row.revision, row.instance_count) for row in rows(engine, tables.revisions)}
    assert sorted(found.values()) == [(1, 4), (1, 62)]
    assert len(listeners[0].ready()) == 2
