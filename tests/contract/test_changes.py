"""A commit of another connection is noticed, and nothing else is."""

import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.sql.changes import Changes
from hilum.adapters.sql.database import reading, transaction
from hilum.adapters.sql.tables import journal_positions


def test_a_commit_changes_the_version_and_a_look_does_not(engine: Engine) -> None:
    changes = Changes(engine)
    before = changes.version()
    with reading(engine) as connection:
        connection.execute(sa.select(journal_positions)).all()
    assert changes.version() == before
    with transaction(engine) as connection:
        connection.execute(sa.insert(journal_positions).values(journal="a", position=1))
    after = changes.version()
    assert after != before
    assert changes.version() == after
    changes.close()
