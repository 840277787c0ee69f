"""A PostgreSQL server for tests: on a free port of the loopback interface, in a temporary folder, stopped by pid.

Its `hilum` role is no superuser, logs in with a password (SCRAM) and owns its databases, as in a hospital's own server.
Databases are copied from a template that the migrations made once.
"""

import itertools
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import Engine

from hilum.adapters.sql.database import open_database
from hilum.adapters.sql.schema import migrate
from hilum.testing.external import Process, free_port, missing

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "log_min_messages": "warning",
    "autovacuum_naptime": "5s",
    "deadlock_timeout": "200ms",  # tests provoke deadlocks
}


@dataclass(frozen=True, slots=True)
class Database:
    """One database of the server. `url` is as in `hilum.toml`: without the password."""

    url: str
    password: SecretStr
    name: str

    def open(self, **options: Any) -> Engine:
        """An engine as services open it; the caller disposes it. `options` are those of `open_database`."""
        return open_database(self.url, password=self.password, **options)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs beside the configuration."""
        return {"HILUM_DATABASE_PASSWORD": self.password.get_secret_value()}


class Postgresql:
    """A server that can be stopped, killed, paused (`process.popen`) and started again on the same port and folder."""

    def __init__(self, folder: Path, *, settings: dict[str, str] | None = None) -> None:
        """Args: folder: existing and empty, and open to the server's own user all the way down from the root."""
        self.folder = folder
        self.port = free_port()
        self.password = SecretStr(secrets.token_urlsafe(16))
        self._settings = {**_SETTINGS, **(settings or {}), "port": str(self.port)}
        self._numbers = itertools.count(1)
        self._process: Process | None = None
        self._templated = False
        password_file = folder / "password"
        password_file.write_text(self.password.get_secret_value())
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
            shutil.chown(password_file, "postgres")
        self._run_once(
            _program("initdb"),
            *("--pgdata", self.data, "--username", "postgres", "--pwfile", password_file),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
        )

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def process(self) -> Process:
        """The running postmaster."""
        if self._process is None:
            raise AssertionError("the PostgreSQL server is not running")
        return self._process

    def start(self, *, timeout_s: float = 60.0) -> None:
        """Returns when it answers. After a kill the old one's children must have ended first: it tries until then."""
        deadline = time.monotonic() + timeout_s
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        command: list[str | Path] = [*_as_server(), _program("postgres"), "-D", self.data, *options]
        while True:
            self._process = Process(command, log=self.folder / "log", cwd=self.folder)
            while self._process.popen.poll() is None:
                if self.answers():
                    self._prepare()
                    return
                _pause(deadline, self._process)
            _pause(deadline, self._process)

    def answers(self) -> bool:
        """True when it takes a session."""
        try:
            with self.admin(timeout_s=2):
                return True
        except psycopg.OperationalError:
            return False

    def stop(self) -> None:
        """A fast shutdown: sessions are ended, everything is written."""
        if self._process is not None:
            if self._process.popen.poll() is None:
                self._process.popen.send_signal(2)  # SIGINT: fast; SIGTERM would wait for every session
                self._process.popen.wait(30)
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """SIGKILL to the postmaster; its children notice and end."""
        self.process.kill()
        self._process = None

    @contextmanager
    def admin(self, database: str = "postgres", *, timeout_s: int = 10) -> Iterator[psycopg.Connection]:
        """A superuser's session outside any transaction."""
        with psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="postgres",
            password=self.password.get_secret_value(),
            dbname=database,
            connect_timeout=timeout_s,
            autocommit=True,
        ) as connection:
            yield connection

    def database(self, *, schema: bool = True) -> Database:
        """A new database with the migrated schema, or empty."""
        if schema and not self._templated:
            empty = self._create("hilum_template", "template1")
            engine = empty.open()
            migrate(engine)
            engine.dispose()
            self._templated = True
        return self._create(f"test_{next(self._numbers)}", "hilum_template" if schema else "template1")

    def drop(self, database: Database) -> None:
        """Ends its sessions and removes it."""
        with self.admin() as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(database.name)))

    def end_sessions(self, database: Database) -> int:
        """What an administrator's pg_terminate_backend does; how many sessions."""
        with self.admin() as connection:
            ended = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
                (database.name,),
            ).fetchall()
        return len(ended)

    def _create(self, name: str, template: str) -> Database:
        with self.admin() as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER hilum TEMPLATE {}").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
        return Database(f"postgresql+psycopg://hilum@127.0.0.1:{self.port}/{name}", self.password, name)

    def _prepare(self) -> None:
        with self.admin() as connection:
            if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'hilum'").fetchone() is None:
                role = sql.SQL("CREATE ROLE hilum LOGIN PASSWORD {}").format(self.password.get_secret_value())
                connection.execute(role)

    def _run_once(self, *command: str | Path) -> None:
        whole = [str(part) for part in (*_as_server(), *command)]
        done = subprocess.run(whole, capture_output=True, text=True, check=False, cwd=self.folder)
        if done.returncode != 0:
            raise AssertionError(f"{command[0]} failed:\n{done.stderr[-2000:]}")


@contextmanager
def postgresql(*, settings: dict[str, str] | None = None) -> Iterator[Postgresql]:
    """A running server in a new folder under the system's temporary folder; stopped and removed in the end."""
    _program("postgres")
    folder = Path(tempfile.mkdtemp(prefix="hilum-postgresql-"))
    try:
        server = Postgresql(folder, settings=settings)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> str:
    """Debian keeps the server's programs out of the PATH, one folder a version; the newest counts."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -_version(path.parent.name))
    found = [folder / name for folder in (*folders, Path("/usr/bin")) if (folder / name).exists()]
    if not found:
        missing("PostgreSQL's server", "apt-get install postgresql")
    return str(found[0])


def _version(name: str) -> float:
    return float(name) if name.replace(".", "", 1).isdigit() else 0.0


def _as_server() -> Sequence[str]:
    """The server refuses to run as root. It ends with the process that started it, however that ends."""
    user = ("--reuid", "postgres", "--regid", "postgres", "--clear-groups") if os.geteuid() == 0 else ()
    return ("setpriv", "--pdeathsig", "QUIT", *user, "--")


def _pause(deadline: float, process: Process) -> None:
    if time.monotonic() > deadline:
        raise AssertionError(f"PostgreSQL did not start:\n{process.tail()}")
    time.sleep(0.02)
