"""`python -m hilum_results --data DIR [--config FILE]`: the composition root of the results service."""

import argparse
import fcntl
import sys
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import IO

from sqlalchemy import Engine

from hilum.adapters.sql.database import database_path, has_schema, open_database
from hilum.domain.errors import Busy
from hilum.ports.clock import SystemClock
from hilum.runtime import logs
from hilum.runtime.config import ConfigError, load
from hilum.runtime.lifecycle import announce_ready, stop_on_signals, stop_with_parent
from hilum_results.encode import ENCODERS
from hilum_results.encode.warm import warm_up
from hilum_results.settings import Settings
from hilum_results.transport.service import serve


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="hilum_results", description="Encodes results and delivers them.")
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--config", type=Path, help="hilum.toml")
    given = parser.parse_args(arguments)
    logs.configure("results")
    warnings.simplefilter("ignore")  # pydicom's quote values of the file
    log = logs.Log("hilum.results")
    try:
        settings = Settings.of(load(given.config), data=given.data)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    stop = stop_on_signals()
    stop_with_parent(stop)
    warm_up(ENCODERS)
    with _only_one(settings.data, stop, log):
        engine = open_database(database_path(settings.data))
        try:
            _wait_for_schema(engine, stop)
            if stop.is_set():
                return 0
            announce_ready(settings.data, "results")
            return serve(settings, engine, encoders=ENCODERS, clock=SystemClock(), stop=stop, log=log)
        finally:
            engine.dispose()


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
