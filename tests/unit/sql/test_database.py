"""Which trouble with the database passes by itself (Busy), and which ends the process."""

import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.exc import DatabaseError, DBAPIError, IntegrityError, OperationalError

from hilum.adapters.sql.database import database_path, may_pass, open_database, reading, transaction
from hilum.adapters.sql.eventlog import SqlConsumer
from hilum.adapters.sql.schema import migrate
from hilum.adapters.sql.tables import events
from hilum.domain.errors import Busy
from hilum.ports.clock import SystemClock
from hilum.testing.external import Process, wait_until


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    opened = open_database(database_path(tmp_path))
    with transaction(opened) as connection:
        connection.exec_driver_sql("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)")
    yield opened
    opened.dispose()


def run(engine: Engine, *statements: str) -> None:
    with transaction(engine) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_a_lock_that_another_holds_is_busy(engine: Engine, tmp_path: Path) -> None:
    with engine.connect() as impatient:
        impatient.exec_driver_sql("PRAGMA busy_timeout = 1")
    other = sqlite3.connect(database_path(tmp_path), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(Busy, match="SQLITE_BUSY"):
            run(engine, "INSERT INTO t VALUES (1, '')")
    finally:
        other.close()


def test_a_full_database_is_busy_and_nothing_of_the_transaction_is_left(engine: Engine) -> None:
    with pytest.raises(Busy, match="SQLITE_FULL"):
        run(
            engine,
            "PRAGMA max_page_count = 1",
            "INSERT INTO t VALUES (1, '')",
            "INSERT INTO t VALUES (2, zeroblob(9999999))",
        )
    with reading(engine) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM t").scalar() == 0


def test_a_folder_that_is_away_is_busy_also_for_a_consumer(tmp_path: Path) -> None:
    engine = open_database(database_path(tmp_path / "away"))
    with pytest.raises(Busy, match="SQLITE_CANTOPEN"):
        run(engine, "SELECT 1")
    with pytest.raises(Busy, match="SQLITE_CANTOPEN"):
        SqlConsumer(engine, group="g", topics=("a",), clock=SystemClock()).poll(timeout_s=0)


@pytest.mark.parametrize(
    ("statements", "error"),
    [
        (["SELECT * FROM nothing"], OperationalError),  # SQLITE_ERROR
        (["SELEKT 1"], OperationalError),
        (["PRAGMA query_only = ON", "INSERT INTO t VALUES (1, '')"], OperationalError),  # SQLITE_READONLY
        (["INSERT INTO t VALUES (1, '')", "INSERT INTO t VALUES (1, '')"], IntegrityError),  # SQLITE_CONSTRAINT
        (["INSERT INTO t VALUES ('x', '')"], IntegrityError),  # SQLITE_MISMATCH
    ],
)
def test_what_waiting_does_not_mend_is_no_busy(engine: Engine, statements: list[str], error: type[DBAPIError]) -> None:
    with pytest.raises(error):
        run(engine, *statements)


def test_a_corrupt_file_and_one_that_is_no_database_are_no_busy(engine: Engine, tmp_path: Path) -> None:
    run(engine, "INSERT INTO t VALUES (1, zeroblob(100000))", "DROP TABLE t", "CREATE TABLE u (a)")
    engine.dispose()
    path = database_path(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"\xff" * (len(whole) - 100))
    with pytest.raises(DatabaseError):
        run(engine, "SELECT * FROM u")
    engine.dispose()
    path.write_bytes(b"not a database, but longer than the header of one " * 20)
    with pytest.raises(DatabaseError):
        run(engine, "SELECT 1")


@pytest.mark.parametrize(
    ("code", "passes"),
    [
        (sqlite3.SQLITE_BUSY_SNAPSHOT, True),
        (sqlite3.SQLITE_LOCKED_SHAREDCACHE, True),
        (sqlite3.SQLITE_IOERR_FSYNC, True),
        (sqlite3.SQLITE_PROTOCOL, True),
        (sqlite3.SQLITE_CORRUPT_VTAB, False),
        (sqlite3.SQLITE_READONLY_DBMOVED, False),
        (sqlite3.SQLITE_SCHEMA, False),
        (None, False),  # raised by the driver itself
    ],
)
def test_the_primary_code_decides_for_an_extended_one(code: int | None, passes: bool) -> None:
    error = sqlite3.OperationalError("said")
    if code is not None:
        error.sqlite_errorcode = code
    assert may_pass(error) is passes
    assert may_pass(OperationalError("SELECT 1", (), error)) is passes


def test_an_error_does_not_quote_its_parameters(engine: Engine) -> None:
    with pytest.raises(OperationalError) as raised, transaction(engine) as connection:
        connection.execute(sa.text("INSERT INTO nothing VALUES (:name)"), {"name": "Doe^Jane"})
    assert "Doe" not in str(raised.value)


def test_a_service_whose_table_is_gone_ends_and_does_not_wait_for_ever(tmp_path: Path) -> None:
    engine = open_database(database_path(tmp_path))
    migrate(engine)
    command: list[str | Path] = [sys.executable, "-m", "hilum_results", "--data", tmp_path]
    with Process(command, log=tmp_path / "log") as results:
        results.wait_until(lambda: "results ready" in results.tail(), timeout_s=120)
        with transaction(engine) as connection:
            events.drop(connection)
        wait_until(lambda: results.popen.poll() is not None, what="the end of the process")
        assert results.popen.returncode == 1
        assert "results broke" in results.tail()
        assert "OperationalError" in results.tail()
    engine.dispose()
