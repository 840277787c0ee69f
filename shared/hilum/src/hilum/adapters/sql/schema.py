"""Bringing the schema up to date, or back, with Alembic (migrations/)."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine

from hilum.adapters.sql.database import is_postgresql, passing_trouble_is_busy, reading, revision_in

MIGRATIONS = Path(__file__).parents[6] / "migrations"
HEAD, BASE = "head", "base"

_STATEMENT_TIMEOUT = "10min"  # a new index over a year's instances
_LOCK_TIMEOUT = "5s"  # whoever waits for a table's lock holds up everyone behind it
_TURN_TIMEOUT = "15min"
_TURN = sa.text("SELECT pg_advisory_lock(hashtextextended('hilum migrate', 0))")


class CannotMigrate(Exception):
    """The database stays as it is; the text says why."""


def migrate(engine: Engine, *, to: str = HEAD, migrations: Path = MIGRATIONS) -> None:
    """Runs the migrations between the database's revision and `to`, up or down.

    Two that run at once follow each other. On PostgreSQL each migration is a transaction of its own; on SQLite all are
    one.

    Raises:
        CannotMigrate: there is no such revision, or the way down would lose what the code promises to keep.
        Busy: the database is away, or a table stayed locked; what was migrated before stays, and it can be run again.
    """
    with passing_trouble_is_busy(), engine.connect() as connection, _turn(connection):
        config = _config(migrations)
        config.attributes["connection"] = connection
        _move(config, revision_in(connection), to)
        connection.commit()


def migration_sql(engine: Engine, *, to: str = HEAD, migrations: Path = MIGRATIONS) -> str:
    """The SQL that `migrate` would run, for an administrator to run; PostgreSQL only.

    Raises:
        CannotMigrate: as in `migrate`, or the database is SQLite, whose tables are changed by copying them.
    """
    if not is_postgresql(engine):
        raise CannotMigrate("SQLite's tables are changed by copying them, which no SQL file can say beforehand")
    config = _config(migrations)
    config.output_buffer = io.StringIO()
    config.attributes["dialect"] = engine.dialect.name
    with reading(engine) as connection:
        known = revision_in(connection)
    _move(config, known, to, sql=True)
    return config.output_buffer.getvalue()


def refuse_to_lose(connection: Connection | None, *tables: str) -> None:
    """For a migration's way down: what would be dropped must be empty.

    Raises:
        CannotMigrate: a table has rows.
    """
    if connection is None:  # only SQL is written
        return
    for name in tables:
        if connection.execute(sa.select(sa.literal(1)).select_from(sa.table(name)).limit(1)).first() is not None:
            raise CannotMigrate(f"going back would lose the rows of {name}; restore a backup of before instead")


def _move(config: Config, known: str | None, to: str, *, sql: bool = False) -> None:
    scripts = ScriptDirectory.from_config(config)
    revisions = [script.revision for script in scripts.walk_revisions()]  # newest first
    target = scripts.get_current_head() if to == HEAD else to
    if known is not None and known not in revisions:
        raise CannotMigrate(f"the database has revision {known}, which is of a newer release than this one")
    if target not in (*revisions, BASE):
        raise CannotMigrate(f"there is no revision {target}; there are {', '.join(reversed(revisions))} and {BASE}")
    down = known is not None and (target == BASE or revisions.index(target) > revisions.index(known))
    span = f"{known or BASE}:{target}" if sql else target
    try:
        (command.downgrade if down else command.upgrade)(config, span, sql=sql)
    except CommandError as error:
        raise CannotMigrate(str(error).splitlines()[0]) from error


def _config(migrations: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations))
    return config


@contextmanager
def _turn(connection: Connection) -> Iterator[None]:
    """One migration at a time: by a lock of the session on PostgreSQL; SQLite's transaction is one already."""
    if is_postgresql(connection):
        connection.detach()  # the session ends with it, and so do its lock and its limits
        _limits(connection, statement=_TURN_TIMEOUT, lock=_TURN_TIMEOUT)
        connection.execute(_TURN)
        _limits(connection, statement=_STATEMENT_TIMEOUT, lock=_LOCK_TIMEOUT)
        connection.commit()
    yield


def _limits(connection: Connection, *, statement: str, lock: str) -> None:
    for name, limit in (("statement_timeout", statement), ("lock_timeout", lock)):
        connection.execute(sa.text("SELECT set_config(:name, :limit, false)"), {"name": name, "limit": limit})
