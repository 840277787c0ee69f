"""SQLite: how its file is opened, and which of its errors may pass."""

import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event

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


def open_sqlite(path: Path) -> Engine:
    """The engine of one SQLite file: WAL, synchronous=FULL, so that a commit survives a kill and a power cut."""
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"check_same_thread": False},
        execution_options={"preserve_rowcount": True},  # of an INSERT as well: whether its key was new
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


def may_pass(error: sqlite3.Error) -> bool:
    """True for a lock, a full disk, an I/O error or a file that can't be opened."""
    code = getattr(error, "sqlite_errorcode", None)  # the driver's own errors have none
    return code is not None and code & 0xFF in _MAY_PASS  # the low byte is the primary code


def trouble(error: sqlite3.Error) -> str:
    """The error in SQLite's own name, such as `SQLITE_BUSY`; without its text, which may quote a value."""
    return str(getattr(error, "sqlite_errorname", None) or type(error).__name__)
