"""Opening the database and running transactions."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError

from hilum.domain.errors import Busy

_BUSY_TIMEOUT_MS = 15_000
_MAY_PASS = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_PROTOCOL,  # the locks of the WAL were contended for too long
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,  # the folder is away, or this process has no descriptor left
    }
)
"""Primary result codes (https://sqlite.org/rescode.html) that the same statement may not meet again. With all others
(wrong SQL or schema, a corrupt or read-only file, a broken constraint) waiting would hide the trouble for ever."""


def database_path(data: Path) -> Path:
    return data / "hilum.db"


def open_database(path: Path) -> Engine:
    """The engine of one SQLite file: WAL, synchronous=FULL, so that a commit survives a kill and a power cut."""
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"check_same_thread": False},
        hide_parameters=True,  # an error's text reaches logs, and the parameters name patients
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where `transaction` says, not where the driver guesses
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        connection.exec_driver_sql("BEGIN" if options.get("hilum_read_only") else "BEGIN IMMEDIATE")

    return engine


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One write transaction; commits at the end, rolls back on any exception.

    Raises:
        Busy: the database can't be reached, stays locked or has no room. Nothing was written.
        DBAPIError: everything else that the database says; it won't pass by itself.
    """
    with passing_trouble_is_busy(), engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One consistent view to read from; it takes no write lock.

    Raises:
        Busy: the database can't be reached.
        DBAPIError: as in `transaction`.
    """
    with passing_trouble_is_busy(), engine.connect().execution_options(hilum_read_only=True) as connection:
        yield connection


@contextmanager
def passing_trouble_is_busy() -> Iterator[None]:
    """Turns trouble that may pass by itself into Busy, and lets all other errors through."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        if may_pass(error):
            raise Busy(f"the database is away: {trouble(error)}") from error
        raise


def may_pass(error: DBAPIError | sqlite3.Error) -> bool:
    """True for a lock, a full disk, an I/O error or a file that can't be opened."""
    code = getattr(_said(error), "sqlite_errorcode", None)  # the driver's own errors have none
    return code is not None and code & 0xFF in _MAY_PASS  # the low byte is the primary code


def trouble(error: DBAPIError | sqlite3.Error) -> str:
    """The error in SQLite's own name, such as `SQLITE_BUSY`; without its text, which may quote a value."""
    said = _said(error)
    return str(getattr(said, "sqlite_errorname", None) or type(said).__name__)


def _said(error: DBAPIError | sqlite3.Error) -> BaseException | None:
    return error.orig if isinstance(error, DBAPIError) else error


def has_schema(engine: Engine) -> bool:
    with reading(engine) as connection:
        return bool(sqlalchemy.inspect(connection).has_table("alembic_version"))
