"""Which trouble with PostgreSQL passes by itself, and that no error says a value or a password."""

import os
import signal
import threading

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from hilum.adapters.sql.database import Conflict, may_pass, open_database, reading, transaction
from hilum.adapters.sql.tables import journal_positions, studies
from hilum.domain.errors import Busy, Reject
from hilum.testing.external import wait_until
from hilum.testing.postgresql import Database, Postgresql, postgresql


@pytest.fixture
def database(postgresql_database: Database) -> Database:
    return postgresql_database


def ask(engine: Engine, text: str = "SELECT 1") -> object:
    with reading(engine) as connection:
        return connection.execute(sa.text(text)).scalar()


def error(code: str) -> psycopg.Error:
    return psycopg.errors.lookup(code)("said")


@pytest.mark.parametrize(
    ("code", "passes"),
    [
        ("08006", True),  # connection_failure
        ("25006", True),  # read_only_sql_transaction
        ("25P03", True),  # idle_in_transaction_session_timeout
        ("40001", True),  # serialization_failure
        ("40P01", True),  # deadlock_detected
        ("53100", True),  # disk_full
        ("53200", True),  # out_of_memory
        ("53300", True),  # too_many_connections
        ("55P03", True),  # lock_not_available
        ("57014", True),  # query_canceled
        ("57P01", True),  # admin_shutdown
        ("57P02", True),  # crash_shutdown
        ("57P03", True),  # cannot_connect_now
        ("58030", True),  # io_error
        ("57P04", False),  # database_dropped
        ("23505", False),  # unique_violation
        ("40002", False),  # transaction_integrity_constraint_violation
        ("42P01", False),  # undefined_table
        ("42501", False),  # insufficient_privilege
        ("XX001", False),  # data_corrupted
    ],
)
def test_the_sqlstate_says_what_may_pass(code: str, passes: bool) -> None:
    assert may_pass(error(code)) is passes
    assert may_pass(OperationalError("SELECT 1", (), error(code))) is passes


def test_an_error_of_the_driver_itself_is_a_bug_unless_the_way_to_the_server_broke() -> None:
    assert may_pass(psycopg.OperationalError("the connection is closed"))
    assert not may_pass(psycopg.ProgrammingError("no results"))
    assert not may_pass(psycopg.InterfaceError("cursor is closed"))


def test_a_session_that_an_administrator_ended_is_busy_and_the_next_one_works(
    database: Database, postgresql_server: Postgresql
) -> None:
    engine = database.open()
    assert ask(engine) == 1
    assert postgresql_server.end_sessions(database) == 1
    with pytest.raises(Busy, match="AdminShutdown 57P01"):
        ask(engine)
    assert ask(engine) == 1
    engine.dispose()


def test_a_server_that_is_killed_is_busy_until_it_is_back_and_keeps_what_was_committed() -> None:
    with postgresql() as server:
        engine = server.database().open()
        with transaction(engine) as connection:
            connection.execute(sa.insert(journal_positions).values(journal="a", position=1))
        server.kill()
        with pytest.raises(Busy):
            ask(engine)
        with pytest.raises(Busy, match="Connection refused"):
            ask(engine)
        server.start()
        assert ask(engine, "SELECT position FROM journal_positions") == 1
        engine.dispose()


def test_a_server_that_stands_still_is_waited_for(database: Database, postgresql_server: Postgresql) -> None:
    engine = database.open()
    pid = ask(engine, "SELECT pg_backend_pid()")
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(0.3, os.kill, (pid, signal.SIGCONT)).start()
    assert ask(engine, "SELECT pg_backend_pid()") == pid
    engine.dispose()


def test_more_sessions_than_the_server_or_the_pool_has_is_busy(
    database: Database, postgresql_server: Postgresql
) -> None:
    with postgresql_server.admin() as admin:
        admin.execute(f"ALTER DATABASE {database.name} CONNECTION LIMIT 1")
    one, other = database.open(), database.open()
    with reading(one) as connection:
        connection.execute(sa.text("SELECT 1"))
        with pytest.raises(Busy, match="too many connections"):
            ask(other)
    one.dispose()
    assert ask(other) == 1
    other.dispose()


def test_a_statement_that_takes_too_long_is_ended(database: Database) -> None:
    engine = database.open()

    def slow() -> None:
        with transaction(engine) as connection:
            connection.execute(sa.text("SET LOCAL statement_timeout = '20ms'"))
            connection.execute(sa.text("SELECT pg_sleep(5)"))

    with pytest.raises(Busy, match="QueryCanceled 57014"):
        slow()
    limits = {name: ask(engine, f"SHOW {name}") for name in ("statement_timeout", "lock_timeout")}
    assert limits == {"statement_timeout": "30s", "lock_timeout": "10s"}
    assert ask(engine, "SHOW idle_in_transaction_session_timeout") == "30s"
    assert ask(engine, "SHOW application_name") == "hilum"
    engine.dispose()


def test_a_transaction_that_loses_to_another_is_a_conflict(database: Database) -> None:
    engine = database.open()
    with transaction(engine) as connection:
        connection.execute(sa.insert(journal_positions).values(journal="a", position=1))
    change = sa.update(journal_positions).values(position=journal_positions.c.position + 1)

    def lose() -> None:
        with transaction(engine.execution_options(isolation_level="REPEATABLE READ")) as connection:
            connection.execute(sa.select(journal_positions)).all()
            with transaction(engine) as other:
                other.execute(change)
            connection.execute(change)

    with pytest.raises(Conflict, match="SerializationFailure 40001"):
        lose()
    engine.dispose()


def test_a_value_that_no_column_holds_is_the_input_s_fault_and_not_shown(database: Database) -> None:
    engine = database.open()

    def put(**values: object) -> None:
        with transaction(engine) as connection:
            connection.execute(sa.insert(journal_positions).values(**values))

    with pytest.raises(Reject, match="StringDataRightTruncation 22001") as caught:
        put(journal="Doe^Jane" * 20, position=1)
    assert "Doe" not in f"{caught.value} {caught.value.__cause__}"
    with pytest.raises(Reject, match="NumericValueOutOfRange 22003"):
        put(journal="a", position=1 << 80)
    engine.dispose()


def test_an_error_names_tables_and_constraints_but_no_value(database: Database) -> None:
    engine = database.open()

    def put() -> None:
        with transaction(engine) as connection:
            for _ in range(2):
                connection.execute(sa.insert(journal_positions).values(journal="Doe^Jane", position=1))

    with pytest.raises(sa.exc.IntegrityError) as caught:
        put()
    told = f"{caught.value!r} {caught.value.__cause__!r}"
    assert "journal_positions pk_journal_positions" in told
    assert "Doe" not in told
    engine.dispose()


def test_a_wrong_password_is_waited_for_and_said_and_no_password_is_ever_shown(database: Database) -> None:
    engine = open_database(database.url, password=None)
    with pytest.raises(Busy, match="no password supplied"):
        ask(engine)
    right = database.open()
    assert database.password.get_secret_value() not in f"{right!r} {right.url} {database!r}"
    right.dispose()


def test_writing_in_a_reading_transaction_is_refused(database: Database) -> None:
    engine = database.open()

    def write() -> None:
        with reading(engine) as connection:
            connection.execute(sa.delete(studies))

    with pytest.raises(Busy, match="25006"):  # as on a server that was demoted, which passes
        write()
    engine.dispose()


def test_idle_sessions_are_let_go(database: Database, postgresql_server: Postgresql) -> None:
    engine = database.open()
    ask(engine)
    engine.dispose()
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"

    def gone() -> bool:
        with postgresql_server.admin() as admin:
            row = admin.execute(query, (database.name,)).fetchone()
        return row == (0,)

    wait_until(gone, what="the end of the session")
