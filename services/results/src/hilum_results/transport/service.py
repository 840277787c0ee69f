"""What runs in a process of the results service: it takes messages in, sweeps the ledger, or does everything."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import pydantic
from sqlalchemy import Connection, Engine

from hilum.adapters.sql.database import reading, transaction
from hilum.adapters.sql.eventlog import SqlConsumer
from hilum.contracts.messages import FindingsProduced, StudyEnded
from hilum.contracts.topics import FINDINGS_PRODUCED, STUDY_ENDED
from hilum.domain.errors import Busy, Reject
from hilum.domain.identity import study_key
from hilum.domain.results import Format
from hilum.ports.clock import Clock
from hilum.ports.events import Consumer, Received
from hilum.ports.wakeups import WakeUps
from hilum.runtime.config import AnyDestination
from hilum.runtime.consume import consume
from hilum.runtime.logs import Log
from hilum_results.handlers import intake
from hilum_results.handlers.deliveries import release_claims
from hilum_results.handlers.parked import park_unserved, resume_served
from hilum_results.settings import Settings
from hilum_results.transport.courier import Courier
from hilum_results.transport.senders import carrier_of
from hilum_results.transport.sweep import Sweep
from hilum_results.transport.upkeep import keep_up
from hilum_results.transport.wakeups import LocalWakeUps

GROUP = "results"
TOPICS = (FINDINGS_PRODUCED.name, STUDY_ENDED.name)
_SIGNAL_S = 0.2
T = TypeVar("T", bound=pydantic.BaseModel)


class Desk:
    """The handler of both topics, and the consumer's look ahead: encoding happens before the transaction begins."""

    def __init__(
        self,
        consumer: Consumer,
        *,
        engine: Engine,
        settings: Settings,
        encoders: intake.Encoders,
        clock: Clock,
        log: Log,
    ) -> None:
        self._consumer = consumer
        self._engine = engine
        self._settings = settings
        self._encoders = encoders
        self._clock = clock
        self._log = log
        self._ready: dict[tuple[str, int, int], intake.Prepared | None] = {}

    def poll(self, *, timeout_s: float, limit: int = 1) -> Sequence[Received]:
        """One message at a time, since the next may need to see what this one wrote; findings come encoded."""
        found = self._consumer.poll(timeout_s=timeout_s, limit=1)
        self._ready.clear()
        for received in found:
            if received.topic == FINDINGS_PRODUCED.name:
                try:
                    self._ready[_place(received)] = self._prepare(received)
                except Reject:
                    continue  # the handler meets it again, where it becomes a dead letter
        return found

    def commit(self, connection: Any, received: Received) -> None:
        self._consumer.commit(connection, received)

    def dead_letter(self, connection: Any, received: Received, reason: str, attempt: int = 1) -> None:
        self._consumer.dead_letter(connection, received, reason, attempt)

    def handle(self, connection: Connection, received: Received) -> None:
        """Writes what the message means, in the caller's transaction.

        Raises:
            Reject: not a message of its topic, or of a study that the index doesn't know.
        """
        if received.topic == FINDINGS_PRODUCED.name:
            self._findings(connection, received)
        else:
            self._ended(connection, received)

    def _findings(self, connection: Connection, received: Received) -> None:
        place = _place(received)
        prepared = self._ready[place] if place in self._ready else self._prepare(received)
        if prepared is None:
            self._log.info("result known", study=received.key)
            return
        now = self._clock.now()
        state = intake.store(connection, prepared, settings=self._settings, now=now)
        result = prepared.result
        self._log.info(
            "result stored",
            study=received.key,
            revision=result.findings.revision,
            result_key=result.key,
            state=state.value,
            seconds=round((now - result.created_at).total_seconds(), 3),
        )

    def _prepare(self, received: Received) -> intake.Prepared | None:
        findings = _read(FindingsProduced, received).to_domain()

        def failed(format_: Format, error: Exception) -> None:
            self._log.error("encoding failed", study=received.key, format=format_.value, exc_info=error)

        with reading(self._engine) as connection:
            return intake.prepare(
                connection,
                findings,
                settings=self._settings,
                encoders=self._encoders,
                now=self._clock.now(),
                on_failure=failed,
            )

    def _ended(self, connection: Connection, received: Received) -> None:
        ended = _read(StudyEnded, received).to_domain()
        known = not intake.end(connection, ended)
        self._log.info(
            "end known" if known else "study ended",
            study=study_key(ended.study_instance_uid),
            revision=ended.revision,
            state=ended.state.value,
        )


def _read(contract: type[T], received: Received) -> T:
    try:
        return contract.model_validate_json(received.payload)
    except pydantic.ValidationError as error:
        raise Reject(f"not a message of {received.topic}: {error.error_count()} fields are wrong") from error


def serve(
    settings: Settings,
    engine: Engine,
    *,
    encoders: intake.Encoders,
    clock: Clock,
    stop: threading.Event,
    log: Log,
) -> int:
    """Everything in one process, until `stop` is set; the exit code, 1 when a thread broke.

    The caller holds the data folder's lock, so claims that are still open belong to a process that is gone.
    """
    take_over(settings, engine, clock, log, alone=True)
    couriers = make_couriers(settings, engine, clock=clock, stop=stop, log=log)
    consumer = SqlConsumer(engine, group=GROUP, topics=TOPICS, clock=clock, stop=stop)
    wakeups = LocalWakeUps(couriers)
    desk = Desk(consumer, engine=engine, settings=settings, encoders=encoders, clock=clock, log=log)
    work: dict[str, Callable[[], None]] = {f"courier {courier.name}": courier.run for courier in couriers}
    work["upkeep"] = partial(keep_up, settings, engine, clock, stop, log)
    work["intake"] = partial(take_in, desk, consumer, engine, wakeups, settings, stop=stop, log=log)
    log.info("results ready", count=len(couriers))
    try:
        return run_all(work, wakeups, stop=stop, log=log)
    finally:
        consumer.close()


def sweep(
    settings: Settings, engine: Engine, *, wakeups: WakeUps, clock: Clock, stop: threading.Event, log: Log
) -> int:
    """Wakes for what is due, each second, and delivers what was not taken all the same; the exit code."""
    while not stop.is_set():
        try:
            take_over(settings, engine, clock, log, alone=False)
            break
        except Busy as error:
            log.warning("waiting", reason=error.reason)
            stop.wait(1.0)
    couriers = make_couriers(settings, engine, clock=clock, stop=stop, log=log, waiting_for=settings.overdue)
    work: dict[str, Callable[[], None]] = {f"courier {courier.name}": courier.run for courier in couriers}
    work["sweep"] = Sweep(settings, engine, wakeups, clock=clock, stop=stop, log=log).run
    log.info("results sweep ready", count=len(couriers))
    try:
        return run_all(work, LocalWakeUps(couriers), stop=stop, log=log)
    finally:
        wakeups.close()


def take_in(
    desk: Desk,
    consumer: Consumer,
    engine: Engine,
    wakeups: WakeUps,
    settings: Settings,
    *,
    stop: threading.Event,
    log: Log,
) -> None:
    """Handles messages until `stop` is set, and wakes for what each commit made due."""

    @contextmanager
    def committing() -> Iterator[Connection]:
        with transaction(engine) as connection:
            yield connection
        for name in settings.served:
            wakeups.wake(name)

    consume(desk, desk.handle, transaction=committing, stop=stop, log=log)


def make_couriers(
    settings: Settings,
    engine: Engine,
    *,
    clock: Clock,
    stop: threading.Event,
    log: Log,
    waiting_for: timedelta = timedelta(0),
) -> list[Courier]:
    """One for each destination; `waiting_for` as there."""

    def courier(destination: AnyDestination) -> Courier:
        carrier = carrier_of(destination, settings, engine, clock=clock, stop=stop, log=log)
        return Courier(carrier, clock=clock, stop=stop, log=log, waiting_for=waiting_for)

    return [courier(destination) for destination in settings.destinations]


def take_over(settings: Settings, engine: Engine, clock: Clock, log: Log, *, alone: bool) -> None:
    """Fits the deliveries that an earlier process left to this configuration: each waits for a courier or is parked.

    `alone`: nobody else works on this ledger, so every claim belongs to a process that is gone.
    """
    with transaction(engine) as connection:
        now = clock.now()
        left = release_claims(connection, now=now) if alone else 0
        parked = park_unserved(connection, settings.served, now=now)
        resumed = resume_served(connection, settings.served, now=now)
    if left:
        log.warning("deliveries of an earlier process are sent again", count=left)
    if parked:
        log.warning("deliveries without a destination are parked", count=parked)
    if resumed:
        log.info("parked deliveries have a destination again", count=resumed)


def _place(received: Received) -> tuple[str, int, int]:
    return received.topic, received.partition, received.offset


def run_all(work: Mapping[str, Callable[[], None]], wakeups: WakeUps, *, stop: threading.Event, log: Log) -> int:
    """Each in a thread until `stop` is set; 1 when one broke.

    Anything unexpected is a bug: it ends the process, and whoever supervises it starts a new one.
    """
    broken = threading.Event()

    def guarded(do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:
            log.error("results broke", exc_info=error)
            broken.set()
        finally:
            stop.set()

    threads = [threading.Thread(target=guarded, args=(do,), name=name) for name, do in work.items()]
    for thread in threads:
        thread.start()
    while not stop.wait(_SIGNAL_S):
        pass
    wakeups.close()
    for thread in threads:
        thread.join()
    return 1 if broken.is_set() else 0
