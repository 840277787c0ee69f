"""One delivery from its claim to what the ledger says of it, under a lease that is renewed while it is being sent."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from sqlalchemy import Engine

from hilum.adapters.sql.database import reading, transaction
from hilum.domain.errors import Busy
from hilum.domain.identity import study_key
from hilum.ports.clock import Clock
from hilum.runtime.config import AnyDestination
from hilum.runtime.logs import Log
from hilum_results.handlers.deliveries import Parcel, claim, next_due, renew, settle
from hilum_results.handlers.verdict import Outcome, Verdict, pause, retry
from hilum_results.settings import Settings, format_of
from hilum_results.transport.sender import Sender

_BEATS_A_LEASE = 4
_DATABASE_PAUSE_S = 0.2
_LAST_TRIES_S = 3.0


class Carrier:
    """Claims what is due at one destination, sends it and writes how it went. Used by one thread."""

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
        self.name = destination.name
        self._destination = destination
        self._format = format_of(destination)
        self._sender = sender
        self._settings = settings
        self._engine = engine
        self._clock = clock
        self._stop = stop
        self._log = log
        self._chance = chance

    def deliver_one(self, *, waiting_for: timedelta = timedelta(0)) -> bool:
        """One attempt of what is due first; False when nothing may be sent now.

        Args:
            waiting_for: leaves alone what has been due for a shorter time, as others are expected to take it.

        Raises:
            Busy: the database is away; nothing was claimed.
        """
        now = self._clock.now()
        due = self.next_due()  # a look costs no write lock
        if due is None or due > now - waiting_for:
            return False
        with transaction(self._engine) as connection:
            parcel = claim(
                connection,
                self.name,
                self._format,
                simulation=self._destination.simulation,
                now=now,
                lease=self._settings.lease,
                in_flight=self._settings.in_flight,
                waiting_since=now - waiting_for,
            )
        if parcel is None:
            return False
        with self._held(parcel):
            self._record(parcel, self._send(parcel))
        return True

    def next_due(self) -> datetime | None:
        """When the next delivery of this destination is due or its lease ends.

        Raises:
            Busy: the database is away.
        """
        with reading(self._engine) as connection:
            return next_due(connection, self.name, self._format)

    def rest(self) -> None:
        """Nothing more is due now: lets go of what is open towards the peer."""
        self._sender.rest()

    def _send(self, parcel: Parcel) -> Verdict:
        try:
            return self._sender.send(parcel.content, parcel.identity)
        except Exception as error:
            # A bug, but of one delivery: ending the process would hold up every other destination, again and again.
            self._log.error("sending broke", destination=self.name, exc_info=error)
            return retry(f"Hilum could not send it ({type(error).__name__})")

    def _record(self, parcel: Parcel, verdict: Verdict) -> None:
        """The verdict reaches the ledger even when the database is away for long: nobody else can claim meanwhile.

        Raises:
            Busy: it is time to stop and the database is still away; the lease ends by itself.
        """
        wait = pause(
            parcel.attempt,
            first=self._settings.first_retry,
            longest=self._settings.longest_retry,
            chance=self._chance,
        )
        last_try: float | None = None
        while True:
            try:
                with transaction(self._engine) as connection:
                    now = self._clock.now()
                    kept = settle(connection, parcel, verdict, now=now, pause=wait)
                break
            except Busy:
                if self._stop.is_set():
                    last_try = last_try or time.monotonic() + _LAST_TRIES_S
                    if time.monotonic() >= last_try:
                        raise
                time.sleep(_DATABASE_PAUSE_S)
        write = self._log.info if verdict.outcome is Outcome.ACCEPTED else self._log.warning
        write(
            f"delivery {verdict.outcome}" if kept else "delivery settled by another claim",
            destination=self.name,
            format=parcel.format.value,
            study=study_key(parcel.study_instance_uid),
            result_key=parcel.result_key,
            attempt=parcel.attempt,
            seconds=round((now - parcel.started_at).total_seconds(), 3),
        )

    @contextmanager
    def _held(self, parcel: Parcel) -> Iterator[None]:
        """Renews the lease from a thread of its own, so that it can be short: what a killed process held is soon free.

        Not for ever: a sender that hangs beyond every timeout of its own loses the claim as well.
        """
        finished = threading.Event()
        thread = threading.Thread(target=self._beat, args=(parcel, finished), name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            finished.set()

    def _beat(self, parcel: Parcel, finished: threading.Event) -> None:
        lease = self._settings.lease
        until = time.monotonic() + self._settings.longest_send(self._destination).total_seconds()
        while not finished.wait((lease / _BEATS_A_LEASE).total_seconds()) and time.monotonic() < until:
            try:
                with transaction(self._engine) as connection:
                    if not renew(connection, parcel, now=self._clock.now(), lease=lease):
                        return
            except Busy:
                continue  # nobody else can claim either
            except Exception as error:
                self._log.error("the lease can't be renewed", destination=self.name, exc_info=error)
                return
