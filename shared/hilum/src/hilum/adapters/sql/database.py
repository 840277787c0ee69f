"""Opening the database, SQLite or PostgreSQL, and running transactions."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psycopg
import sqlalchemy
from pydantic import SecretStr
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from hilum.adapters.redis.address import redis_url
from hilum.adapters.redis.announce import RedisAnnouncer
from hilum.adapters.sql import postgresql, sqlite
from hilum.adapters.sql.announce import announce_commits
from hilum.domain.errors import Busy, Reject
from hilum.runtime.cluster import Cluster

REVISION = "0009"
"""The newest migration, without which the tables that the code knows are not there."""

_TRIES = 5
T = TypeVar("T")


class Conflict(Busy):
    """Another transaction was in the way (serialization, deadlock). Nothing was written; the same may succeed now."""


def database_path(data: Path) -> Path:
    return data / "hilum.db"


def open_database(
    place: Path | str, *, password: SecretStr | None = None, application: str = "hilum", pool_size: int = 10
) -> Engine:
    """The engine of a SQLite file (a path) or of a PostgreSQL database (a URL without a password).

    Neither is met before it is used. `password`, `application` and `pool_size` are for PostgreSQL.
    """
    if isinstance(place, Path):
        return sqlite.open_sqlite(place)
    return postgresql.open_postgresql(place, password=password, application=application, pool_size=pool_size)


def open_state(data: Path, cluster: Cluster | None, *, application: str) -> Engine:
    """Where this site keeps its state: the cluster's PostgreSQL, or SQLite in the data folder.

    Raises:
        SecretMissing: the file of the password can't be read.
    """
    if cluster is None:
        return open_database(database_path(data))
    engine = open_database(cluster.database, password=cluster.database_password(), application=application)
    announce_commits(engine, RedisAnnouncer(redis_url(cluster)))  # pages elsewhere hear of what is committed here
    return engine


def is_postgresql(of: Engine | Connection) -> bool:
    return of.dialect.name == "postgresql"


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One write transaction; commits at the end, rolls back on any exception.

    Raises:
        Busy: the database can't be reached, stays locked or has no room. Nothing was written; only when the
            connection broke during the commit itself it may have been, so what follows must stand being repeated.
        Conflict: as Busy, because of another transaction.
        Reject: PostgreSQL has no room for a value of the input (a number or a text beyond its column).
        DBAPIError: everything else that the database says; it won't pass by itself.
    """
    with passing_trouble_is_busy(), engine.begin() as connection:
        yield connection


def in_transaction(engine: Engine, work: Callable[[Connection], T]) -> T:
    """What `work` returns, from one write transaction; `work` runs again when another transaction was in the way.

    So `work` must be a function of its inputs and of what the connection says.

    Raises:
        Busy, DBAPIError: as in `transaction`.
    """
    for _try in range(_TRIES - 1):
        try:
            with transaction(engine) as connection:
                return work(connection)
        except Conflict:
            continue
    with transaction(engine) as connection:
        return work(connection)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One consistent view to read from; it takes no write lock.

    Raises:
        Busy: the database can't be reached.
        DBAPIError: as in `transaction`.
    """
    if is_postgresql(engine):
        with passing_trouble_is_busy(), postgresql.read_only(engine).connect() as connection:
            yield connection
    else:
        with passing_trouble_is_busy(), engine.connect().execution_options(hilum_read_only=True) as connection:
            yield connection


@contextmanager
def passing_trouble_is_busy() -> Iterator[None]:
    """Turns trouble that may pass by itself into Busy, a value that can't be stored into Reject, and passes all other
    errors on."""
    try:
        yield
    except PoolTimeout as error:
        raise Busy("every connection to the database is in use") from error
    except (DBAPIError, sqlite3.Error, psycopg.Error) as error:
        said = _said(error)
        if isinstance(said, psycopg.Error) and postgresql.is_unfit(said):
            raise Reject(f"the database can't hold a value of it: {trouble(error)}") from error
        if not may_pass(error):
            raise
        if isinstance(said, psycopg.Error) and postgresql.is_conflict(said):
            raise Conflict(f"another transaction was in the way: {trouble(error)}") from error
        raise Busy(f"the database is away: {trouble(error)}") from error


def may_pass(error: DBAPIError | sqlite3.Error | psycopg.Error) -> bool:
    """True when the same may succeed later: the database is away, locked, full or stopping, or had a conflict."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    match _said(error):
        case sqlite3.Error() as said:
            return sqlite.may_pass(said)
        case psycopg.Error() as said:
            return postgresql.may_pass(said)
    return False


def trouble(error: DBAPIError | sqlite3.Error | psycopg.Error) -> str:
    """The error in the database's own name, such as `SQLITE_BUSY`; without its text, which may quote a value."""
    match _said(error):
        case sqlite3.Error() as said:
            return sqlite.trouble(said)
        case psycopg.Error() as said:
            return postgresql.trouble(said)
    return type(_said(error)).__name__


def _said(error: DBAPIError | sqlite3.Error | psycopg.Error) -> BaseException | None:
    return error.orig if isinstance(error, DBAPIError) else error


def has_schema(engine: Engine) -> bool:
    """True when the database's tables are those of this release or of a newer one, which takes what this one writes.

    Raises:
        Busy: the database can't be reached.
    """
    with reading(engine) as connection:
        found = revision_in(connection)
    return found is not None and found >= REVISION


def revision_in(connection: Connection) -> str | None:
    """The last migration that was run, `0001` or higher; None before the first."""
    if not sqlalchemy.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).scalar()
    return found
