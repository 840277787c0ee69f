"""A database of the last release, with data in it, goes on under this one; and that release under this schema."""

import sqlite3
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.sql.database import database_path, open_database, reading
from hilum.adapters.sql.schema import migrate
from hilum.adapters.sql.tables import metadata
from hilum.testing.clock import SetClock
from hilum_listener.settings import Places
from hilum_listener.testing import START, Listener

DUMP = Path(__file__).parents[1] / "fixtures" / "last_release" / "hilum.db.sql"
"""What `sqlite3 hilum.db .dump` says of a folder of 0.2: one study complete and delivered, one complete with a late
image, one receiving, one quarantined file."""


def of_last_release(data: Path) -> Engine:
    raw = sqlite3.connect(database_path(data))
    raw.executescript(DUMP.read_text())
    raw.close()
    return open_database(database_path(data))


def content(engine: Engine) -> dict[str, list[dict[str, object]]]:
    """Every row of every table, as the table declares itself in the database."""
    seen = sa.MetaData()
    with reading(engine) as connection:
        seen.reflect(connection)
        return {
            name: [dict(row) for row in connection.execute(sa.select(table)).mappings()]
            for name, table in seen.tables.items()
            if name != "alembic_version"
        }


def test_a_database_of_the_last_release_keeps_every_row_and_value(tmp_path: Path) -> None:
    engine = of_last_release(tmp_path)
    before = content(engine)
    assert sum(len(rows) for rows in before.values()) >= 25
    migrate(engine)
    after = content(engine)
    assert set(metadata.tables) == set(after)
    for name, rows in before.items():
        kept = [{column: row[column] for column in rows[0]} for row in after[name]] if rows else after[name]
        assert kept == rows, name


def test_studies_that_the_last_release_was_receiving_are_completed_by_this_one(tmp_path: Path) -> None:
    engine = of_last_release(tmp_path)
    migrate(engine)
    listener = Listener(Places(tmp_path), engine, SetClock(START + timedelta(hours=1)))
    listener.step()
    found = {(message.revision, sum(len(s.instances) for s in message.series)) for message in listener.ready()}
    assert found == {(1, 2), (1, 1), (2, 3)}
    listener.step(after=timedelta(hours=1))
    assert len(listener.ready()) == 4


def test_what_the_last_release_writes_is_taken_by_this_schema(tmp_path: Path) -> None:
    """Each migration is safe while the release before still runs: its inserts, as its own dump spells them, succeed."""
    engine = open_database(database_path(tmp_path))
    migrate(engine)
    raw = sqlite3.connect(database_path(tmp_path))
    before = sqlite3.connect(":memory:")
    before.executescript(DUMP.read_text())
    for line in DUMP.read_text().splitlines():
        if line.startswith("INSERT INTO") and "alembic_version" not in line and "sqlite_sequence" not in line:
            table = line.split('"')[1]
            names = ", ".join(f'"{row[1]}"' for row in before.execute(f'PRAGMA table_info("{table}")'))
            raw.execute(line.replace(f'"{table}"', f'"{table}" ({names})', 1))
    raw.commit()
    assert raw.execute("SELECT count(*) FROM studies").fetchone() == (3,)
    assert raw.execute("SELECT count(*) FROM instances").fetchone() == (5,)
    before.close()
    raw.close()
