"""`python -m hilum_results [ROLE] --data DIR [--config FILE]`: the composition root of the results service.

Without a role everything runs in one process, on one machine. In a cluster three roles run and scale apart: `intake`
takes messages in and encodes, `deliver` is the Celery worker, `sweep` wakes for what is due.
"""

import argparse
import fcntl
import sys
import threading
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

from sqlalchemy import Engine

from hilum.adapters.dependencies import checks_of
from hilum.adapters.eventlog import event_log
from hilum.adapters.redis.address import redis_url
from hilum.adapters.sql.clock import clock_of
from hilum.adapters.sql.database import database_path, has_schema, open_database, open_state
from hilum.domain.errors import Busy
from hilum.ports.clock import SystemClock
from hilum.ports.wakeups import WakeUps
from hilum.runtime import logs
from hilum.runtime.cluster import Cluster, SecretMissing
from hilum.runtime.config import ConfigError, load
from hilum.runtime.health import Health
from hilum.runtime.lifecycle import announce_ready, stop_on_signals, stop_with_parent
from hilum_results.encode import ENCODERS
from hilum_results.encode.warm import warm_up
from hilum_results.settings import Settings
from hilum_results.transport.service import GROUP, TOPICS, Desk, run_all, serve, sweep, take_in
from hilum_results.transport.tasks import CeleryWakeUps, make_app

_LOG = logs.Log("hilum.results")

ROLES = ("intake", "sweep", "deliver")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 stopped, 1 something broke, 2 it can't start as it is configured."""
    given = _parse(arguments)
    logs.configure("results")
    warnings.simplefilter("ignore")  # pydicom's quote values of the file
    try:
        site = load(given.config)
        settings = Settings.of(site, data=given.data)
        if given.role is None:
            return _alone(settings)
        if site.cluster is None:
            raise ConfigError(f"{given.role} runs in a cluster, and the configuration has no [cluster]")
        return _in_cluster(given.role, settings, site.cluster)
    except (ConfigError, SecretMissing) as error:
        print(error, file=sys.stderr)
        return 2


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hilum_results", description="Encodes results and delivers them.")
    parser.add_argument(
        "role", nargs="?", choices=ROLES, help="what of it runs here, in a cluster; everything without it"
    )
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--config", type=Path, help="hilum.toml")
    return parser.parse_args(arguments)


def _alone(settings: Settings) -> int:
    stop = stop_on_signals()
    stop_with_parent(stop)
    warm_up(ENCODERS)
    with _only_one(settings.data, stop, _LOG):
        engine = open_database(database_path(settings.data))
        try:
            _wait_for_schema(engine, stop)
            if stop.is_set():
                return 0
            announce_ready(settings.data, "results")
            return serve(settings, engine, encoders=ENCODERS, clock=SystemClock(), stop=stop, log=_LOG)
        finally:
            engine.dispose()


def _in_cluster(role: str, settings: Settings, cluster: Cluster) -> int:
    if role == "deliver":  # its own signals, and no thread before it forks
        from hilum_results.transport.pool import Pool

        pool = Pool(
            settings,
            broker=redis_url(cluster),
            open_engine=partial(_open, settings, cluster),
            log=_LOG,
            ready=partial(_ready, settings, "deliver"),
        )
        return pool.run()
    stop = stop_on_signals()
    stop_with_parent(stop)
    engine = _open(settings, cluster)
    Health(settings.data, f"results-{role}", checks_of(engine, cluster, redis=True)).start(stop)
    wakeups = CeleryWakeUps(make_app(redis_url(cluster)), settings.served, log=_LOG)
    try:
        _wait_for_schema(engine, stop)
        if stop.is_set():
            return 0
        _ready(settings, role)
        if role == "sweep":
            return sweep(settings, engine, wakeups=wakeups, clock=clock_of(engine), stop=stop, log=_LOG)
        return _intake(settings, engine, cluster, wakeups, stop)
    finally:
        wakeups.close()
        engine.dispose()


def _intake(settings: Settings, engine: Engine, cluster: Cluster, wakeups: WakeUps, stop: threading.Event) -> int:
    warm_up(ENCODERS)
    clock = clock_of(engine)
    events = event_log(engine, cluster, clock)
    consumer = events.consumer(GROUP, TOPICS, stop=stop)
    desk = Desk(consumer, engine=engine, settings=settings, encoders=ENCODERS, clock=clock, log=_LOG)
    work = {
        "intake": partial(take_in, desk, consumer, engine, wakeups, settings, stop=stop, log=_LOG),
        "relay": partial(events.run_relay, stop, _LOG),
    }
    try:
        return run_all(work, wakeups, stop=stop, log=_LOG)
    finally:
        consumer.close()


def _open(settings: Settings, cluster: Cluster) -> Engine:
    return open_state(settings.data, cluster, application="hilum-results")


def _ready(settings: Settings, role: str) -> None:
    announce_ready(settings.data, f"results-{role}")
    _LOG.info("results ready", process=role)


def _only_one(data: Path, stop: threading.Event, log: logs.Log) -> IO[bytes]:
    """The lock of this service on its data folder, freed by the kernel however the process ends.

    It proves that deliveries which are still claimed belong to nobody, so a restart need not wait for their leases.
    """
    data.mkdir(parents=True, exist_ok=True)
    handle = (data / "results.lock").open("ab")
    told = False
    while not stop.is_set():
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if not told:
                log.warning("another results process works on this folder")
            told = True
            stop.wait(0.2)
    return handle


def _wait_for_schema(engine: Engine, stop: threading.Event) -> None:
    """Returns once the tables exist (another process migrates) or `stop` is set."""
    while not stop.is_set():
        with suppress(Busy):
            if has_schema(engine):
                return
        stop.wait(0.2)


if __name__ == "__main__":
    sys.exit(main())
