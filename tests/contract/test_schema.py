"""The migrations make the schema that the code declares, from nothing and from each revision, and down again."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from hilum.adapters.sql.database import (
    REVISION,
    database_path,
    has_schema,
    open_database,
    reading,
    revision_in,
    transaction,
)
from hilum.adapters.sql.schema import BASE, MIGRATIONS, CannotMigrate, migrate, migration_sql
from hilum.adapters.sql.tables import commitments, metadata
from hilum.domain.errors import Busy
from hilum.testing.postgresql import Database, Postgresql

_CONFIG = Config()
_CONFIG.set_main_option("script_location", str(MIGRATIONS))
REVISIONS = sorted(script.revision for script in ScriptDirectory.from_config(_CONFIG).walk_revisions())


@pytest.fixture
def empty_postgresql(postgresql_server: Postgresql) -> Iterator[Database]:
    database = postgresql_server.database(schema=False)
    yield database
    postgresql_server.drop(database)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database of each kind without any table."""
    if request.param == "sqlite":
        opened = open_database(database_path(tmp_path))
    else:
        opened = request.getfixturevalue("empty_postgresql").open()
    yield opened
    opened.dispose()


def revision(engine: Engine) -> str | None:
    with reading(engine) as connection:
        return revision_in(connection)


def drift(engine: Engine) -> list[object]:
    with engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata))


def test_the_migrations_and_the_tables_agree(empty: Engine) -> None:
    migrate(empty)
    assert drift(empty) == []
    assert has_schema(empty)


def test_the_code_names_the_newest_migration() -> None:
    assert REVISIONS[-1] == REVISION


@pytest.mark.parametrize("older", REVISIONS)
def test_from_each_revision_the_way_up_and_down_again_ends_where_it_should(empty: Engine, older: str) -> None:
    migrate(empty, to=older)
    assert revision(empty) == older
    assert has_schema(empty) is (older == REVISION)
    migrate(empty)
    assert drift(empty) == []
    migrate(empty, to=older)
    assert revision(empty) == older
    migrate(empty)
    assert drift(empty) == []


def test_migrating_twice_changes_nothing(empty: Engine) -> None:
    migrate(empty)
    migrate(empty)
    assert set(metadata.tables) < set(sa.inspect(empty).get_table_names())


def test_an_empty_schema_can_be_taken_down_to_nothing(empty: Engine) -> None:
    migrate(empty)
    migrate(empty, to=BASE)
    assert sa.inspect(empty).get_table_names() == ["alembic_version"]
    assert not has_schema(empty)


def test_the_way_down_is_refused_where_it_would_lose_something_and_nothing_changes(engine: Engine) -> None:
    with transaction(engine) as connection:
        connection.execute(
            sa.insert(commitments).values(
                sop_instance_uid="1.2",
                sop_class_uid="1.2",
                transaction_uid="1.2",
                calling_ae="A",
                basis="archive",
                committed_at=datetime(2026, 11, 24, tzinfo=UTC),
            )
        )
    with pytest.raises(CannotMigrate, match="would lose the rows of commitments"):
        migrate(engine, to="0001")
    with reading(engine) as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM commitments")).scalar_one() == 1


def test_what_does_not_exist_is_refused_with_a_reason(engine: Engine) -> None:
    with pytest.raises(CannotMigrate, match="there is no revision 4711"):
        migrate(engine, to="4711")
    with transaction(engine) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(CannotMigrate, match="revision 9999, which is of a newer release"):
        migrate(engine)
    assert has_schema(engine)  # a newer release's tables take what this one writes


def in_threads(work: Callable[[], None], count: int) -> list[BaseException]:
    failed: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


def test_two_that_migrate_at_once_follow_each_other(empty: Engine) -> None:
    assert in_threads(lambda: migrate(empty), 3) == []
    assert drift(empty) == []


def test_a_migration_that_meets_a_locked_table_gives_up_soon_and_can_be_run_again(empty_postgresql: Database) -> None:
    engine = empty_postgresql.open()
    migrate(engine, to="0004")
    with transaction(engine) as connection:
        connection.execute(sa.text("LOCK TABLE study_senders"))
        with pytest.raises(Busy, match="LockNotAvailable 55P03"):
            migrate(engine)
    assert revision(engine) == "0004"
    migrate(engine)
    assert revision(engine) == REVISION
    engine.dispose()


def test_the_sql_of_the_migrations_makes_the_same_schema(
    empty_postgresql: Database, postgresql_server: Postgresql
) -> None:
    engine = empty_postgresql.open()
    script = migration_sql(engine)
    with postgresql_server.admin(empty_postgresql.name) as admin:
        admin.execute("SET ROLE hilum")
        admin.execute(script.encode())
    assert drift(engine) == []
    assert revision(engine) == REVISION
    assert "CREATE TABLE" not in migration_sql(engine)
    engine.dispose()


def test_sqlite_has_no_sql_to_show(tmp_path: Path) -> None:
    with pytest.raises(CannotMigrate, match="copying"):
        migration_sql(open_database(database_path(tmp_path)))


def test_every_table_names_the_service_that_writes_it() -> None:
    assert [table.name for table in metadata.tables.values() if not table.comment] == []
