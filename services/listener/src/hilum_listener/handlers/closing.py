"""Marks revisions whose end is written, so that the reading list finds those that have none without looking at all.

The mark is a hint of the assembler in its own table, and may lag: whoever reads it asks for the end as well.
"""

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from hilum.adapters.sql.database import transaction
from hilum.adapters.sql.tables import outcomes, revisions

_EACH = timedelta(seconds=5)
_AT_ONCE = 2000


class Closer:
    """Works now and then; at once again while more are left than it marks in one go."""

    def __init__(self, engine: Engine, now: datetime) -> None:
        self._engine = engine
        self._due = now

    def step(self, now: datetime) -> None:
        """Raises: Busy: the database is away."""
        if now < self._due:
            return
        with transaction(self._engine) as connection:
            closed = close_ended(connection, limit=_AT_ONCE)
        self._due = now if closed == _AT_ONCE else now + _EACH


def close_ended(connection: Connection, *, limit: int) -> int:
    """How many were marked, at most `limit`. What another assembler marks just now is left to it."""
    keys = (revisions.c.study_instance_uid, revisions.c.revision)
    has_end = sa.exists().where(outcomes.c.study_instance_uid == keys[0], outcomes.c.revision == keys[1])
    open_ones = sa.select(*keys).where(revisions.c.closed == sa.false(), has_end).limit(limit)
    found = connection.execute(open_ones.with_for_update(skip_locked=True, of=revisions)).all()
    if found:
        mine = sa.tuple_(*keys).in_([tuple(row) for row in found])
        connection.execute(sa.update(revisions).where(mine).values(closed=True))
    return len(found)
