"""Fixtures for suites that every database must pass: `engine` comes once as SQLite and once as PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from hilum.adapters.sql.database import database_path, open_database
from hilum.adapters.sql.schema import migrate
from hilum.testing.postgresql import Database, Postgresql, postgresql


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Postgresql]:
    """One server for the session. A test that stops or kills one starts its own."""
    with postgresql() as server:
        yield server


@pytest.fixture
def postgresql_database(postgresql_server: Postgresql) -> Iterator[Database]:
    """A database of its own for each test, with the schema."""
    database = postgresql_server.database()
    yield database
    postgresql_server.drop(database)


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A migrated database of each kind; the SQLite file lies where a data folder `tmp_path` has it."""
    if request.param == "postgresql":
        database: Database = request.getfixturevalue("postgresql_database")
        opened = database.open()
    else:
        opened = open_database(database_path(tmp_path))
        migrate(opened)
    yield opened
    opened.dispose()
