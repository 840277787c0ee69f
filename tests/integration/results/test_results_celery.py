"""Deliveries in a cluster: real PostgreSQL, real Redis, the service's own processes, and what a killed one costs."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from hilum.adapters.sql import tables
from hilum.runtime.logs import Log
from hilum.testing.external import Process, wait_until
from hilum.testing.postgresql import Database
from hilum.testing.receivers import Receiver
from hilum.testing.redis import RedisServer, redis_server
from hilum_results.settings import Settings
from hilum_results.testing import COMMON, ResultsSite, hl7_to
from hilum_results.transport.tasks import CeleryWakeUps, make_app

FEW_SECONDS = 10.0
"""What a fault may cost: a lease of two seconds, a sweep each second, and a busy machine's own pauses."""


class Running:
    """A cluster's results service: its ledger, its Redis, and the processes that a test starts."""

    def __init__(self, folder: Path, database: Database, redis: RedisServer) -> None:
        self.folder, self.database, self.redis = folder, database, redis
        self.site = ResultsSite(folder, engine=database.open())
        self.processes: list[Process] = []
        self.config = ""

    def configure(self, destinations: str, *, in_flight: int = 2) -> None:
        common = COMMON + f"lease_s = 2\nin_flight = {in_flight}\n"
        cluster = (
            f'[cluster]\ndatabase = "{self.database.url}"\nkafka = ["127.0.0.1:1"]\nredis = "{self.redis.url}"\n'
            f'instances = "{self.folder}/instances"\n'
        )
        self.config = common + cluster + destinations
        (self.folder / "hilum.toml").write_text(self.config)

    def start(self, role: str) -> Process:
        log = self.folder / f"{role}-{len(self.processes)}.log"
        command = [sys.executable, "-m", "hilum_results", role, "--data", str(self.folder)]
        environment = {**self.redis.environment, **self.database.environment}
        process = Process([*command, "--config", str(self.folder / "hilum.toml")], log=log, env=environment)
        self.processes.append(process)
        return process.wait_until(lambda: "results ready" in log.read_text(), timeout_s=120)

    def store(self, **options: Any) -> None:
        self.site.store(self.config, **options)

    def states(self, destination: str = "ris") -> list[str]:
        return [r.state for r in self.site.rows(tables.deliveries) if r.destination == destination]

    def wait_delivered(self, count: int, destination: str = "ris", *, timeout_s: float = FEW_SECONDS) -> float:
        """Seconds until so many are accepted."""
        started = time.monotonic()
        what = f"{count} deliveries accepted at {destination}"
        wait_until(lambda: self.states(destination).count("accepted") >= count, timeout_s=timeout_s, what=what)
        return time.monotonic() - started


@pytest.fixture
def running(tmp_path: Path, postgresql_database: Database) -> Iterator[Running]:
    with redis_server(tmp_path / "redis") as redis:
        found = Running(tmp_path, postgresql_database, redis)
        yield found
        for process in found.processes:
            process.stop()
        found.site.engine.dispose()


class Slow(list[Any]):
    """Answers AA after a while, and knows how many asked at once."""

    def __init__(self, seconds: float, first: Callable[[], None] = lambda: None) -> None:
        super().__init__(["AA"])
        self.seconds, self.first = seconds, first
        self.at_once = self.most = 0
        self.enough = threading.Event()
        self._lock = threading.Lock()

    def __getitem__(self, index: Any) -> Any:
        with self._lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        first, self.first = self.first, lambda: None
        first()
        self.enough.wait(self.seconds)
        with self._lock:
            self.at_once -= 1
        return "AA"


def wake(running: Running, *names: str) -> None:
    """As intake does after its commit."""
    from hilum.runtime.config import parse

    settings = Settings.of(parse(running.config), data=running.folder)
    wakeups = CeleryWakeUps(make_app(running.redis.url_with_password), settings.served, log=Log("hilum.test"))
    for name in names:
        wakeups.wake(name)
    queue = running.redis.client()
    wait_until(lambda: not wakeups.waiting, what="the wake-ups to be sent")
    queue.close()
    wakeups.close()


def test_a_wake_up_delivers_without_any_sweep(running: Running, mllp_receiver: Receiver) -> None:
    mllp = mllp_receiver(["AA"])
    running.configure(hl7_to(mllp.port))
    running.start("deliver")
    running.store()
    wake(running, "ris")
    print("woken; accepted after, seconds:", round(running.wait_delivered(1), 2))
    assert len(mllp.script.got) == 1
    assert mllp.script.got[0].split(b"\r")[1:] == running.site.content("oru").split(b"\r")[1:]


def test_what_was_only_in_a_redis_that_is_flushed_is_delivered_all_the_same(
    running: Running, mllp_receiver: Receiver
) -> None:
    mllp = mllp_receiver(["AA"])
    running.configure(hl7_to(mllp.port))
    running.store()
    wake(running, "ris")
    running.redis.flush()
    running.start("deliver")
    running.start("sweep")
    running.wait_delivered(1)
    running.redis.flush()
    running.store(revision=2)
    running.wait_delivered(2)
    assert len(mllp.script.got) == 2


def test_while_redis_is_away_the_sweep_delivers_and_afterwards_celery_again(
    running: Running, mllp_receiver: Receiver
) -> None:
    mllp = mllp_receiver(["AA"])
    running.configure(hl7_to(mllp.port))
    worker = running.start("deliver")
    sweep = running.start("sweep")
    running.redis.kill()
    for revision in (1, 2, 3):
        running.store(revision=revision)
        print("Redis is away; accepted after, seconds:", round(running.wait_delivered(revision), 1))
    running.redis.start()
    sweep.stop()
    running.store(revision=4)

    def delivered_by_celery() -> bool:
        wake(running, "ris")
        time.sleep(0.2)
        return running.states().count("accepted") == 4

    wait_until(delivered_by_celery, timeout_s=60, what="the worker to be connected again")
    assert worker.popen.poll() is None
    assert len(mllp.script.got) == 4


def test_a_redis_that_hangs_holds_up_nobody(running: Running, mllp_receiver: Receiver) -> None:
    mllp = mllp_receiver(["AA"])
    running.configure(hl7_to(mllp.port))
    running.start("deliver")
    running.start("sweep")
    running.redis.pause()
    running.store()
    running.wait_delivered(1)
    running.redis.go_on()


@pytest.mark.parametrize("whole_worker", [False, True], ids=["the process that sends", "the worker's main process"])
def test_what_a_killed_worker_was_sending_is_sent_again_within_seconds(
    running: Running, mllp_receiver: Receiver, whole_worker: bool
) -> None:
    killed: list[float] = []
    left: list[psutil.Process] = []
    workers: list[Process] = []

    def kill() -> None:
        mains = {main: main.children() for main in (psutil.Process(worker.pid) for worker in workers)}
        main = next(main for main, pool in mains.items() if any(_sends_to(mllp.port, one) for one in pool))
        sending = next(one for one in mains[main] if _sends_to(mllp.port, one))
        left.extend(mains[main])
        (main if whole_worker else sending).kill()
        killed.append(time.monotonic())

    mllp = mllp_receiver(Slow(0.5, kill))
    running.configure(hl7_to(mllp.port))
    workers += [running.start("deliver"), running.start("deliver")]
    running.start("sweep")
    running.store()
    running.wait_delivered(1, timeout_s=30)
    print("killed while it sent; accepted after, seconds:", round(time.monotonic() - killed[0], 1))
    assert time.monotonic() - killed[0] < FEW_SECONDS
    assert len(set(mllp.script.got)) == 1  # the same bytes under the same MSH-10
    assert len(mllp.script.got) == 2 or whole_worker  # a process without its main one ends what it sends
    if whole_worker:
        _gone, alive = psutil.wait_procs(left, timeout=15)
        assert alive == []


def _sends_to(port: int, process: psutil.Process) -> bool:
    return any(c.raddr and c.raddr.port == port for c in process.net_connections("tcp"))


def test_a_dead_destination_takes_neither_the_pool_nor_the_sweep(running: Running, mllp_receiver: Receiver) -> None:
    hanging = Slow(60)
    dead, alive = mllp_receiver(hanging), mllp_receiver(["AA"])
    running.configure(hl7_to(dead.port).replace('"ris"', '"dead"') + hl7_to(alive.port))
    running.start("deliver")
    running.start("sweep")
    for number in range(12):
        running.store(study=f"1.2.{number}")
    running.wait_delivered(12, timeout_s=30)
    assert set(running.states("dead")) <= {"queued", "sending"}
    hanging.enough.set()


def test_no_more_are_under_way_at_a_destination_than_its_limit_whatever_the_number_of_workers(
    running: Running, mllp_receiver: Receiver
) -> None:
    slow = Slow(0.1)
    mllp = mllp_receiver(slow)
    running.configure(hl7_to(mllp.port), in_flight=3)
    for role in ("deliver", "deliver", "sweep", "sweep"):
        running.start(role)
    for number in range(40):
        running.store(study=f"1.2.{number}")
    running.wait_delivered(40, timeout_s=60)
    assert slow.most <= 3
    assert len(mllp.script.got) == 40


def test_terminated_a_worker_finishes_what_it_sends_and_takes_no_more(
    running: Running, mllp_receiver: Receiver
) -> None:
    stopping: list[Process] = []
    mllp = mllp_receiver(Slow(1.0, lambda: stopping[0].popen.terminate()))
    running.configure(hl7_to(mllp.port), in_flight=1)
    stopping.append(running.start("deliver"))
    for number in range(3):
        running.store(study=f"1.2.{number}")
    wake(running, "ris")
    assert stopping[0].popen.wait(20) == 0
    assert sorted(running.states()) == ["accepted", "queued", "queued"]


def test_a_worker_ends_with_the_process_that_started_it(running: Running, mllp_receiver: Receiver) -> None:
    running.configure(hl7_to(mllp_receiver(["AA"]).port))
    program = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-m', 'hilum_results', 'deliver', '--data', {str(running.folder)!r},"
        f" '--config', {str(running.folder / 'hilum.toml')!r}])\ntime.sleep(600)\n"
    )
    log = running.folder / "parent.log"
    environment = {**running.redis.environment, **running.database.environment}
    parent = Process([sys.executable, "-c", program], log=log, env=environment)
    parent.wait_until(lambda: "results ready" in log.read_text(), timeout_s=120)
    started = psutil.Process(parent.pid).children(recursive=True)
    os.kill(parent.pid, signal.SIGKILL)
    parent.popen.wait()
    _gone, alive = psutil.wait_procs(started, timeout=30)
    assert alive == []
