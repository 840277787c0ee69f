"""One thread for each destination, so a dead one holds up no other."""

import random
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import Engine

from hilum.adapters.sql.database import reading, transaction
from hilum.domain.errors import Busy
from hilum.domain.identity import study_key
from hilum.ports.clock import Clock
from hilum.runtime.config import AnyDestination
from hilum.runtime.logs import Log
from hilum_results.handlers.deliveries import Parcel, claim, next_due, settle
from hilum_results.handlers.verdict import Outcome, Verdict, pause, retry
from hilum_results.settings import Settings, format_of
from hilum_results.transport.sender import Sender

_LONGEST_SLEEP_S = 5.0


class Courier:
    """Claims what is due at one destination, sends it and writes how it went."""

    def __init__(
        self,
        destination: AnyDestination,
        sender: Sender,
        *,
        settings: Settings,
        engine: Engine,
        clock: Clock,
        stop: threading.Event,
        log: Log,
        chance: random.Random,
    ) -> None:
        self._destination = destination
        self._format = format_of(destination)
        self._sender = sender
        self._settings = settings
        self._engine = engine
        self._clock = clock
        self._stop = stop
        self._log = log
        self._chance = chance
        self._wake = threading.Event()

    def wake(self) -> None:
        """There may be something to send, or it is time to stop."""
        self._wake.set()

    def run(self) -> None:
        """Works until `stop` is set; a delivery that is being sent is finished first."""
        while not self._stop.is_set():
            self._wake.clear()
            try:
                if self.deliver_one():
                    continue
                wait_s = self._until_next()
            except Busy as error:
                self._log.warning("waiting", reason=error.reason, destination=self._destination.name)
                wait_s = 1.0
            self._sender.rest()
            self._wake.wait(wait_s)
        self._sender.rest()

    def deliver_one(self) -> bool:
        """One attempt of what is due first; False when nothing is due."""
        with reading(self._engine) as connection:  # a look costs no write lock
            due = next_due(connection, self._destination.name, self._format)
        if due is None or due > self._clock.now():
            return False
        with transaction(self._engine) as connection:
            parcel = claim(
                connection,
                self._destination.name,
                self._format,
                simulation=self._destination.simulation,
                now=self._clock.now(),
                lease=self._settings.lease,
            )
        if parcel is None:
            return False
        verdict = self._send(parcel)
        self._record(parcel, verdict)
        return True

    def _send(self, parcel: Parcel) -> Verdict:
        try:
            return self._sender.send(parcel.content, parcel.identity)
        except Exception as error:
            # A bug, but of one delivery: ending the process would hold up every other destination, again and again.
            self._log.error("sending broke", destination=self._destination.name, exc_info=error)
            return retry(f"Hilum could not send it ({type(error).__name__})")

    def _record(self, parcel: Parcel, verdict: Verdict) -> None:
        """The verdict reaches the ledger even when the database is away for a while: the lease is what limits it."""
        wait = pause(
            parcel.attempt,
            first=self._settings.first_retry,
            longest=self._settings.longest_retry,
            chance=self._chance,
        )
        deadline = parcel.started_at + self._settings.lease
        while True:
            try:
                with transaction(self._engine) as connection:
                    kept = settle(connection, parcel, verdict, now=self._clock.now(), pause=wait)
                break
            except Busy:
                if self._clock.now() >= deadline:
                    raise
                time.sleep(0.2)
        write = self._log.info if verdict.outcome is Outcome.ACCEPTED else self._log.warning
        write(
            f"delivery {verdict.outcome}" if kept else "delivery settled by another claim",
            destination=self._destination.name,
            format=parcel.format.value,
            study=study_key(parcel.study_instance_uid),
            result_key=parcel.result_key,
            attempt=parcel.attempt,
            seconds=round((self._clock.now() - parcel.started_at).total_seconds(), 3),
        )

    def _until_next(self) -> float:
        """Seconds to sleep: to the next due time, at most a few seconds."""
        with reading(self._engine) as connection:
            due = next_due(connection, self._destination.name, self._format)
        return sleep_s(due, self._clock.now())


def sleep_s(due: datetime | None, now: datetime, *, longest_s: float = _LONGEST_SLEEP_S) -> float:
    """How long to sleep before looking again."""
    if due is None:
        return longest_s
    return min(max((due - now) / timedelta(seconds=1), 0.01), longest_s)


SenderOf = Callable[[AnyDestination], Sender]
