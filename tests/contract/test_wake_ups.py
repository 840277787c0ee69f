"""The behaviour of the wake-up port: couriers that are threads, and Celery on a real Redis with its own worker."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hilum.adapters.sql import tables
from hilum.adapters.sql.clock import clock_of
from hilum.ports.wakeups import WakeUps
from hilum.runtime.config import parse
from hilum.runtime.logs import Log
from hilum.testing.external import Process, wait_until
from hilum.testing.postgresql import Database
from hilum.testing.receivers import Listening, mllp_receivers
from hilum.testing.redis import RedisServer, redis_server
from hilum_results.settings import Settings
from hilum_results.testing import COMMON, ResultsSite, hl7_to
from hilum_results.transport.service import make_couriers
from hilum_results.transport.tasks import QUEUE, CeleryWakeUps, make_app
from hilum_results.transport.wakeups import LocalWakeUps

LOG = Log("hilum.test")


class Side:
    """A ledger with one destination, those who deliver, and the port that wakes them."""

    def __init__(self, site: ResultsSite, receiver: Listening, wakeups: WakeUps, config: str) -> None:
        self.site, self.receiver, self.wakeups, self.config = site, receiver, wakeups, config

    def delivered(self) -> int:
        return [row.state for row in self.site.rows(tables.deliveries)].count("accepted")


@pytest.fixture
def receiver() -> Iterator[Listening]:
    with mllp_receivers() as start:
        yield start(["AA"])


@pytest.fixture
def embedded(tmp_path: Path, receiver: Listening) -> Iterator[Side]:
    site, config = ResultsSite(tmp_path), COMMON + hl7_to(receiver.port)
    settings, stop = Settings.of(parse(config), data=tmp_path), threading.Event()
    couriers = make_couriers(settings, site.engine, clock=clock_of(site.engine), stop=stop, log=LOG)
    threads = [threading.Thread(target=courier.run) for courier in couriers]
    for thread in threads:
        thread.start()
    wakeups = LocalWakeUps(couriers)
    time.sleep(0.5)  # they sleep now, for seconds
    yield Side(site, receiver, wakeups, config)
    stop.set()
    wakeups.close()
    for thread in threads:
        thread.join()
    site.engine.dispose()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def celery(tmp_path: Path, receiver: Listening, redis: RedisServer, postgresql_database: Database) -> Iterator[Side]:
    site = ResultsSite(tmp_path, engine=postgresql_database.open())
    config = COMMON + (
        f'[cluster]\ndatabase = "{postgresql_database.url}"\nkafka = ["127.0.0.1:1"]\nredis = "{redis.url}"\n'
        f'instances = "{tmp_path}/instances"\n' + hl7_to(receiver.port)
    )
    (tmp_path / "hilum.toml").write_text(config)
    command = [sys.executable, "-m", "hilum_results", "deliver", "--data", str(tmp_path)]
    log = tmp_path / "deliver.log"
    environment = {**redis.environment, **postgresql_database.environment}
    with Process([*command, "--config", str(tmp_path / "hilum.toml")], log=log, env=environment) as worker:
        worker.wait_until(lambda: "results ready" in log.read_text(), timeout_s=120)
        served = Settings.of(parse(config), data=tmp_path).served
        wakeups = CeleryWakeUps(make_app(redis.url_with_password), served, log=LOG)
        yield Side(site, receiver, wakeups, config)
        wakeups.close()
    site.engine.dispose()


@pytest.fixture(params=["embedded", "celery"])
def side(request: pytest.FixtureRequest) -> Side:
    found: Side = request.getfixturevalue(request.param)
    return found


def test_who_is_woken_delivers_what_is_due(side: Side) -> None:
    for number in range(1, 4):
        side.site.store(side.config, revision=number)
        side.wakeups.wake("ris")
        wait_until(lambda expected=number: side.delivered() == expected, timeout_s=3)  # type: ignore[misc]
    assert len(side.receiver.script.got) == 3


def test_waking_for_nothing_sends_nothing_and_waking_often_sends_once(side: Side) -> None:
    for name in ("ris", "a name that is not configured", ""):
        side.wakeups.wake(name)
    side.site.store(side.config)
    for _ in range(500):
        side.wakeups.wake("ris")
    wait_until(lambda: side.delivered() == 1, timeout_s=10)
    time.sleep(0.5)
    assert len(side.receiver.script.got) == 1


def test_after_it_is_closed_waking_does_nothing(side: Side) -> None:
    side.wakeups.close()
    side.wakeups.wake("ris")
    side.wakeups.close()


@pytest.mark.parametrize("trouble", [RedisServer.kill, RedisServer.pause], ids=["is dead", "hangs"])
def test_waking_returns_at_once_while_redis(
    redis: RedisServer, trouble: Callable[[RedisServer], None], tmp_path: Path
) -> None:
    served = Settings.of(parse(hl7_to(1)), data=tmp_path).served
    wakeups = CeleryWakeUps(make_app(redis.url_with_password), served, log=LOG)
    trouble(redis)
    started = time.monotonic()
    for _ in range(1000):
        wakeups.wake("ris")
    assert time.monotonic() - started < 0.5
    wakeups.close()


def test_while_nobody_takes_them_wake_ups_do_not_pile_up(redis: RedisServer, tmp_path: Path) -> None:
    served = Settings.of(parse(hl7_to(1)), data=tmp_path).served
    wakeups = CeleryWakeUps(make_app(redis.url_with_password), served, log=LOG)
    for _ in range(5):
        for _ in range(200):
            wakeups.wake("ris")
        wait_until(lambda: not wakeups.waiting)
    with redis.client() as client:
        assert 200 <= int(str(client.llen(QUEUE))) <= 256
    wakeups.close()
