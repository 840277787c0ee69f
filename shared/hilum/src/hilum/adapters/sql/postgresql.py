"""PostgreSQL through psycopg: how a server is met, and which of its errors may pass.

Transactions that write are READ COMMITTED and lock the rows that they decide on; those that only read are REPEATABLE
READ, one consistent view. Each has a limit for a statement, for a lock and for standing idle, so that a process that
hangs holds nobody up for longer.
"""

from datetime import timedelta
from typing import Any

import psycopg
import sqlalchemy
from psycopg.abc import Buffer
from psycopg.types.string import StrDumperUnknown
from pydantic import SecretStr
from sqlalchemy import Engine, create_engine, event

STATEMENT_TIMEOUT = timedelta(seconds=30)
LOCK_TIMEOUT = timedelta(seconds=10)
IDLE_IN_TRANSACTION = timedelta(seconds=30)
_POOL_WAIT_S = 10.0
_RECYCLE_S = 1800.0
_CONNECT_TIMEOUT_S = 5
_UNANSWERED_MS = 20_000

_READ_ONLY = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}

_CONFLICTS = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected
_PASSING_CLASSES = frozenset(
    {
        "08",  # connection exception
        "53",  # insufficient resources: disk full, out of memory, too many connections
    }
)
_MAY_PASS = _CONFLICTS | {
    "40000",  # transaction_rollback
    "40003",  # statement_completion_unknown
    "25006",  # read_only_sql_transaction: the server was demoted, or protects a disk that is nearly full
    "25P03",  # idle_in_transaction_session_timeout
    "55P03",  # lock_not_available: lock_timeout
    "57014",  # query_canceled: statement_timeout, which also strikes after the server itself stood still
    "57P01",  # admin_shutdown
    "57P02",  # crash_shutdown
    "57P03",  # cannot_connect_now
    "57P05",  # idle_session_timeout
    "58000",  # system_error
    "58030",  # io_error
}
"""SQLSTATEs (https://www.postgresql.org/docs/current/errcodes-appendix.html) that the same statement may not meet
again. With all others (wrong SQL, a broken constraint, corruption, a dropped database) waiting would hide the
trouble for ever."""

_DATA_EXCEPTION = "22"
_NAMES_ONLY = "42"
"""The class of syntax errors and access rules: its messages quote identifiers. All others may quote values."""


def open_postgresql(url: str, *, password: SecretStr | None, application: str, pool_size: int) -> Engine:
    """The engine of one database, met when it is first used. About `pool_size` connections at a time.

    Args:
        url: as in `hilum.toml`, with libpq's parameters as its query; those win over what is set here.
        application: the name that pg_stat_activity shows.
    """
    where = sqlalchemy.make_url(url).set(drivername="postgresql+psycopg")
    if password is not None:
        where = where.set(password=password.get_secret_value())
    defaults: dict[str, Any] = {
        "application_name": application[:63],
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "keepalives_idle": 5,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": _UNANSWERED_MS,  # a server whose machine is gone answers nothing, not even a refusal
        "options": " ".join(
            f"-c {name}={limit // timedelta(milliseconds=1)}"
            for name, limit in (
                ("statement_timeout", STATEMENT_TIMEOUT),
                ("lock_timeout", LOCK_TIMEOUT),
                ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION),
            )
        ),
    }
    engine = create_engine(
        where,
        connect_args={
            **{name: value for name, value in defaults.items() if name not in where.query},
            "prepare_threshold": None,  # prepared plans outlive a migration, and a pooler between can't keep them
        },
        isolation_level="READ COMMITTED",
        execution_options={"preserve_rowcount": True},  # of an INSERT as well: whether its key was new
        pool_size=pool_size,
        max_overflow=2,  # for a look at the clock by threads that hold all the others
        pool_timeout=_POOL_WAIT_S,
        pool_recycle=_RECYCLE_S,
        hide_parameters=True,  # an error's text reaches logs, and the parameters name patients
    )
    event.listen(engine, "handle_error", _say_no_values)
    event.listen(engine, "connect", _configure)
    return engine


class _Text(StrDumperUnknown):
    """PostgreSQL's text holds no NUL, and what a peer sends may: it is stored as U+FFFD, and found as that."""

    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj.replace("\0", "\ufffd") if "\0" in obj else obj)


def _configure(connection: psycopg.Connection, _record: Any) -> None:
    connection.adapters.register_dumper(str, _Text)


def read_only(engine: Engine) -> Engine:
    """The same engine for transactions that only read, in one consistent view."""
    return engine.execution_options(**_READ_ONLY)


def may_pass(error: psycopg.Error) -> bool:
    """True when the server or the way to it is away, full or stopping, or another transaction was in the way.

    Whatever goes wrong before a session stands (refused, a wrong password, no such database) has no SQLSTATE in libpq
    and counts as away: the reason says what it is, and an administrator mends it without a restart here.
    """
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate[:2] in _PASSING_CLASSES or error.sqlstate in _MAY_PASS


def is_conflict(error: psycopg.Error) -> bool:
    """True when the transaction failed because of another one, and may succeed at once if it is tried again."""
    return error.sqlstate in _CONFLICTS


def is_unfit(error: psycopg.Error) -> bool:
    """True when a value is too long, too large or of no form that its column takes."""
    return error.sqlstate is not None and error.sqlstate.startswith(_DATA_EXCEPTION)


def trouble(error: psycopg.Error) -> str:
    """Name and SQLSTATE, such as `AdminShutdown 57P01`; for a session that never stood, libpq's own words."""
    if error.sqlstate is None:
        words = str(error).strip().splitlines()
        return words[0][:300] if isinstance(error, psycopg.OperationalError) and words else type(error).__name__
    return f"{type(error).__name__} {error.sqlstate}"


def _say_no_values(context: sqlalchemy.engine.ExceptionContext) -> None:
    """Takes out of an error's text what may quote a value: the server's DETAIL names keys, and so patients."""
    error = context.original_exception
    if not isinstance(error, psycopg.Error) or error.sqlstate is None or error.sqlstate[:2] == _NAMES_ONLY:
        return
    where = (error.diag.table_name, error.diag.column_name, error.diag.constraint_name)
    text = " ".join([trouble(error), *(name for name in where if name)])
    error.args = (text,)
    if context.sqlalchemy_exception is not None:
        context.sqlalchemy_exception.args = (f"({type(error).__name__}) {text}",)
