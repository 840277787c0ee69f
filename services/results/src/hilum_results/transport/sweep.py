"""Looks into the ledger each second and wakes for what is due: a wake-up that was lost costs a second and no more."""

import threading

from sqlalchemy import Engine

from hilum.adapters.sql.database import reading
from hilum.domain.errors import Busy
from hilum.ports.clock import Clock
from hilum.ports.wakeups import WakeUps
from hilum.runtime.logs import Log
from hilum_results.handlers.deliveries import waiting
from hilum_results.settings import Settings

_EACH_S = 1.0


class Sweep:
    """Any number of them may run: each wakes, and the ledger says who claims."""

    def __init__(
        self, settings: Settings, engine: Engine, wakeups: WakeUps, *, clock: Clock, stop: threading.Event, log: Log
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._wakeups = wakeups
        self._clock = clock
        self._stop = stop
        self._log = log

    def run(self) -> None:
        """Steps until `stop` is set."""
        while not self._stop.is_set():
            try:
                self.step()
            except Busy as error:
                self._log.warning("waiting", reason=error.reason)
            self._stop.wait(_EACH_S)

    def step(self) -> int:
        """One wake-up for each delivery that could be claimed now; how many.

        Raises:
            Busy: the database is away.
        """
        count = 0
        for name, format_ in self._settings.served.items():
            with reading(self._engine) as connection:
                now = self._clock.now()
                due = waiting(connection, name, format_, now=now, in_flight=self._settings.in_flight)
            for _ in range(due):
                self._wakeups.wake(name)
            count += due
        return count
