"""Bringing the schema up to date with Alembic (migrations/)."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine

MIGRATIONS = Path(__file__).parents[6] / "migrations"


def migrate(engine: Engine, *, migrations: Path = MIGRATIONS) -> None:
    """Runs every migration that the database doesn't have yet, in one transaction each."""
    config = Config()
    config.set_main_option("script_location", str(migrations))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
