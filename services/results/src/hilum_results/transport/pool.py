"""The Celery worker: processes that deliver when they are woken.

Processes and not threads, since only a process can be ended from outside: a library that hangs takes one delivery with
it, for the task's time limit, and a crash in one takes no other.
"""

import gc
import mmap
import os
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from celery import signals  # type: ignore[import-untyped]
from pydantic import SecretStr
from sqlalchemy import Engine

from hilum.adapters.sql.clock import clock_of
from hilum.domain.errors import Busy
from hilum.ports.clock import Clock
from hilum.runtime.lifecycle import stop_with_parent
from hilum.runtime.logs import Log
from hilum_results.settings import Settings, format_of
from hilum_results.transport.senders import carrier_of
from hilum_results.transport.tasks import add_task, make_app

_TURN_S = 5.0
"""A task that delivered for so long makes room for another destination's and is sent again."""
_MOST_PROCESSES = 16
_LOOK_S = 0.5


class Deliverer:
    """What one process of the pool delivers with: its own connections to the database and to the destinations."""

    def __init__(self, settings: Settings, engine: Engine, *, clock: Clock, stop: threading.Event, log: Log) -> None:
        self._stop = stop
        self._log = log
        self._carriers = {
            (d.name, format_of(d).value): carrier_of(d, settings, engine, clock=clock, stop=stop, log=log)
            for d in settings.destinations
        }

    def deliver(self, destination: str, format_: str) -> bool:
        """Delivers until nothing may be sent there now, or its turn is over; True in that case."""
        carrier = self._carriers.get((destination, format_))
        if carrier is None:
            self._log.warning("woken for a destination that is not configured", destination=destination)
            return False
        until = time.monotonic() + _TURN_S
        try:
            while not self._stop.is_set():
                if not carrier.deliver_one():
                    return False
                if time.monotonic() >= until:
                    return True
        except Busy as error:
            self._log.warning("waiting", reason=error.reason, destination=destination)
        finally:
            carrier.rest()
        return False


class _Flag(threading.Event):
    """Set in one process and seen in all that share the memory; no lock that a killed process could hold."""

    def __init__(self) -> None:
        super().__init__()
        self._byte = mmap.mmap(-1, 1)

    def set(self) -> None:
        self._byte[0] = 1

    def is_set(self) -> bool:
        return self._byte[0] == 1


class Pool:
    """The worker's main process, which takes wake-ups, and the processes that deliver.

    `open_engine` is called in each of them; `ready` once the worker takes wake-ups.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        broker: SecretStr,
        open_engine: Callable[[], Engine],
        log: Log,
        ready: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._open_engine = open_engine
        self._log = log
        self._ready = ready
        self._main = os.getpid()
        self._stop = _Flag()
        self._working = threading.Lock()
        self._deliverer: Deliverer | None = None
        longest = max((settings.longest_send(d) for d in settings.destinations), default=timedelta(0))
        self._app = make_app(broker, time_limit=longest + timedelta(seconds=2 * _TURN_S))

    def run(self) -> int:
        """Works until SIGTERM or the end of the parent, then lets what is being sent end; the exit code."""
        add_task(self._app, self._deliver)
        receivers = (
            (signals.setup_logging, _keep_logging),
            (signals.worker_process_init, self._begin),
            (signals.worker_ready, self._announce),
            (signals.worker_shutting_down, self._shutting_down),
        )
        for event, receiver in receivers:
            event.connect(receiver, weak=False)
        worker = self._app.Worker(
            pool="prefork",
            concurrency=processes(self._settings),
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
        )
        gc.collect()
        gc.freeze()  # a collection in a process of the pool would copy every page that it shares with this one
        worker.start()
        return int(worker.exitcode or 0)

    def _announce(self, **_: Any) -> None:
        parent_gone = threading.Event()
        stop_with_parent(parent_gone)

        def end() -> None:
            parent_gone.wait()
            os.kill(self._main, signal.SIGTERM)

        threading.Thread(target=end, name="parent-end", daemon=True).start()
        self._ready()

    def _shutting_down(self, **_: Any) -> None:
        self._stop.set()

    def _begin(self, **_: Any) -> None:
        """In each new process of the pool."""
        engine = self._open_engine()
        self._deliverer = Deliverer(self._settings, engine, clock=clock_of(engine), stop=self._stop, log=self._log)
        threading.Thread(target=self._end_with_main, name="main-watch", daemon=True).start()

    def _deliver(self, destination: str, format_: str) -> bool:
        assert self._deliverer is not None
        with self._working:
            return self._deliverer.deliver(destination, format_)

    def _end_with_main(self) -> None:
        """The main process was killed: what is being sent here is finished, and nothing more is taken."""
        while os.getppid() == self._main:
            time.sleep(_LOOK_S)
        self._stop.set()
        with self._working:
            os._exit(0)


def processes(settings: Settings) -> int:
    """As many as all destinations together may have under way, and one more, so that dead ones don't take the pool.

    Where that is more than the ceiling, the sweep's own couriers serve whoever waits for too long.
    """
    return min(len(settings.destinations) * settings.in_flight + 1, _MOST_PROCESSES)


def _keep_logging(**_: Any) -> None:
    """Celery sets up logging unless somebody listens to this signal."""
