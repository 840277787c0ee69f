"""The migrations make the schema that the code declares, from nothing and down again."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from hilum.adapters.sql.database import open_database
from hilum.adapters.sql.schema import MIGRATIONS, migrate
from hilum.adapters.sql.tables import metadata


def test_the_migrations_and_the_tables_agree(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "hilum.db")
    migrate(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_migrating_twice_changes_nothing(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "hilum.db")
    migrate(engine)
    migrate(engine)
    assert set(metadata.tables) < set(sa.inspect(engine).get_table_names())


def test_the_schema_can_be_taken_down_to_nothing(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "hilum.db")
    migrate(engine)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        connection.commit()
    assert sa.inspect(engine).get_table_names() == ["alembic_version"]


def test_every_table_names_the_service_that_writes_it() -> None:
    assert [table.name for table in metadata.tables.values() if not table.comment] == []
