"""Revisions that have their end are marked, so that the reading list need not look at them; no more than a hint."""

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.sql import tables
from hilum.adapters.sql.database import reading, transaction
from hilum.adapters.sql.reading_list import reading_list
from hilum.domain.identity import derive_uid
from hilum.testing.many_studies import fill_many
from hilum_listener.handlers.closing import Closer, close_ended
from hilum_listener.testing import START

ALONE = derive_uid("many", "49")
"""The study whose end is taken away."""


def fifty(engine: Engine) -> None:
    """None of them marked yet, one without an end."""
    with transaction(engine) as connection:
        fill_many(connection, 50, newest=START, apart=timedelta(minutes=1))
        connection.execute(sa.update(tables.revisions).values(closed=False))
        connection.execute(sa.delete(tables.outcomes).where(tables.outcomes.c.study_instance_uid == ALONE))


def unmarked(engine: Engine) -> list[str]:
    query = sa.select(tables.revisions.c.study_instance_uid).where(tables.revisions.c.closed == sa.false())
    with reading(engine) as connection:
        return list(connection.execute(query).scalars())


def listed(engine: Engine) -> list[str]:
    with reading(engine) as connection:
        return [one.study_uid for one in reading_list(connection, ended_since=START + timedelta(days=1))]


def test_what_has_its_end_is_marked_a_part_at_a_time_and_what_has_none_never(engine: Engine) -> None:
    fifty(engine)
    with transaction(engine) as connection:
        assert [close_ended(connection, limit=30) for _ in range(3)] == [30, 19, 0]
    assert unmarked(engine) == [ALONE]


def test_the_reading_list_is_the_same_before_and_after(engine: Engine) -> None:
    fifty(engine)
    assert listed(engine) == [ALONE]
    Closer(engine, START).step(START)
    assert listed(engine) == [ALONE]


def test_it_works_every_few_seconds(engine: Engine) -> None:
    closer = Closer(engine, START)
    closer.step(START)
    fifty(engine)
    closer.step(START + timedelta(seconds=4))
    assert len(unmarked(engine)) == 50
    closer.step(START + timedelta(seconds=5))
    assert unmarked(engine) == [ALONE]
