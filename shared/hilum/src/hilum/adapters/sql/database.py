"""Opening the database and running transactions."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError

from hilum.domain.errors import Busy

_BUSY_TIMEOUT_MS = 15_000


def database_path(data: Path) -> Path:
    return data / "hilum.db"


def open_database(path: Path) -> Engine:
    """The engine of one SQLite file: WAL, synchronous=FULL, so that a commit survives a kill and a power cut."""
    engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False})

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
        Busy: the database can't be reached or stays locked. Nothing was written.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except OperationalError as error:
        raise Busy(f"the database is away: {type(error.orig).__name__}") from error


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One consistent view to read from; it takes no write lock.

    Raises:
        Busy: the database can't be reached.
    """
    try:
        with engine.connect().execution_options(hilum_read_only=True) as connection:
            yield connection
    except OperationalError as error:
        raise Busy(f"the database is away: {type(error.orig).__name__}") from error


def has_schema(engine: Engine) -> bool:
    with reading(engine) as connection:
        return bool(sqlalchemy.inspect(connection).has_table("alembic_version"))
