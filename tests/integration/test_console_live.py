"""An open page hears that the ledger changed: on one machine, in a cluster, and while Redis is away."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine

from hilum.adapters.sql.database import database_path, open_database, open_state, transaction
from hilum.adapters.sql.schema import migrate
from hilum.runtime.config import parse
from hilum.testing import results as samples
from hilum.testing.external import Process, wait_until
from hilum.testing.postgresql import Database
from hilum.testing.redis import RedisServer, redis_server


@dataclass
class Open:
    """A console with a page's stream open: what came on it so far, and a ledger to write to."""

    process: Process
    engine: Engine
    lines: list[str]
    redis: RedisServer | None = None

    def hears_of_a_study(self, *, within_s: float) -> None:
        before = self.lines.count("event: changed")
        with transaction(self.engine) as connection:
            header = samples.HEADER
            uid = f"1.2.{time.monotonic_ns()}"
            samples.index_study(connection, at=datetime.now(UTC), header=type(header)(uid, header.patient))
        wait_until(
            lambda: self.lines.count("event: changed") > before,
            timeout_s=within_s,
            what="an event on the page's stream",
        )


@contextlib.contextmanager
def console(data: Path, environment: dict[str, str], *options: str) -> Iterator[tuple[Process, list[str]]]:
    command = [sys.executable, "-m", "hilum_console", "--data", str(data), "--port", "0", *options]
    lines: list[str] = []
    with Process(command, log=data / "console.log", env=environment) as process:
        port_file = data / "run" / "console.port"
        process.wait_until(port_file.exists, timeout_s=60)

        def read() -> None:
            address = f"http://127.0.0.1:{port_file.read_text().strip()}/live"
            with (
                contextlib.suppress(httpx.HTTPError),
                httpx.Client(trust_env=False, timeout=20) as client,
                client.stream("GET", address) as answer,
            ):
                assert answer.headers["content-type"].startswith("text/event-stream")
                lines.extend(["open"])
                for line in answer.iter_lines():
                    lines.append(line)

        reader = threading.Thread(target=read)
        reader.start()
        wait_until(lambda: ": here" in lines)
        yield process, lines
    reader.join()


@pytest.fixture
def on_one_machine(tmp_path: Path) -> Iterator[Open]:
    engine = open_database(database_path(tmp_path))
    migrate(engine)
    with console(tmp_path, {}) as (process, lines):
        yield Open(process, engine, lines)
    engine.dispose()


@pytest.fixture
def in_a_cluster(tmp_path: Path, postgresql_database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    with redis_server(tmp_path / "redis") as redis:
        environment = {**redis.environment, **postgresql_database.environment}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        config = (
            f'[cluster]\ndatabase = "{postgresql_database.url}"\nkafka = ["127.0.0.1:1"]\nredis = "{redis.url}"\n'
            f'instances = "{tmp_path}/instances"\n'
        )
        (tmp_path / "hilum.toml").write_text(config)
        engine = open_state(tmp_path, parse(config).cluster, application="hilum-test")  # another service
        with console(tmp_path, environment, "--config", str(tmp_path / "hilum.toml")) as (process, lines):
            yield Open(process, engine, lines, redis)
        engine.dispose()


def test_a_page_on_one_machine_hears_of_a_commit(on_one_machine: Open) -> None:
    for _ in range(2):
        on_one_machine.hears_of_a_study(within_s=3)


def test_a_page_in_a_cluster_hears_of_a_commit_also_while_redis_is_away(in_a_cluster: Open) -> None:
    assert in_a_cluster.redis is not None
    in_a_cluster.hears_of_a_study(within_s=3)
    in_a_cluster.redis.kill()
    for _ in range(3):
        in_a_cluster.hears_of_a_study(within_s=8)
    in_a_cluster.redis.start()
    in_a_cluster.hears_of_a_study(within_s=8)


def test_nothing_but_the_name_of_the_event_is_on_the_stream(on_one_machine: Open) -> None:
    on_one_machine.hears_of_a_study(within_s=3)
    assert set(on_one_machine.lines) <= {"open", ": here", ": still here", "", "event: changed", "data:", "data: "}


@pytest.mark.parametrize("side", ["on_one_machine", "in_a_cluster"])
def test_an_open_page_does_not_hold_up_the_end_of_the_console(side: str, request: pytest.FixtureRequest) -> None:
    opened: Open = request.getfixturevalue(side)
    stopped: Callable[[], int] = opened.process.popen.wait
    started = time.monotonic()
    opened.process.popen.terminate()
    assert stopped() == 0
    assert time.monotonic() - started < 3
