"""Runs the worker's two loops: requests become rows, rows become findings."""

import threading
from contextlib import suppress

from sqlalchemy import Engine

from hilum.adapters.dicom.decoding_child import DecodingChild
from hilum.adapters.eventlog import EventLog
from hilum.adapters.sql.database import has_schema
from hilum.contracts.topics import INFERENCE
from hilum.domain.errors import Busy, Retry
from hilum.ports.clock import Clock
from hilum.ports.instances import InstanceStore
from hilum.ports.model import Model
from hilum.runtime.consume import consume
from hilum.runtime.logs import Log
from hilum_worker.handlers.work import Worker
from hilum_worker.settings import Settings

GROUP = "worker"


def serve(
    settings: Settings,
    engine: Engine,
    model: Model,
    store: InstanceStore,
    clock: Clock,
    stop: threading.Event,
    *,
    events: EventLog,
) -> int:
    """Works until `stop` is set; the exit code, 1 when one of the loops broke."""
    log = Log("hilum.worker")
    decoding = DecodingChild()
    with suppress(Retry):  # the first job will say what is wrong
        decoding.warm()
    worker = Worker(
        settings=settings,
        engine=engine,
        publisher=events.publisher,
        store=store,
        model=model,
        clock=clock,
        log=log,
        stop=stop,
        wake=threading.Event(),
        decode=decoding.model_frame,
    )
    broken = threading.Event()

    def take_requests() -> None:
        topics = [topic.name for topic in INFERENCE.values()]
        consumer = events.consumer(GROUP, topics, stop=stop)
        try:
            consume(consumer, worker.intake, transaction=worker.taking, stop=stop, log=log)
        except Exception as error:  # a bug: it ends the process, and the supervisor starts a new one
            log.error("intake broke", exc_info=error)
            broken.set()
            stop.set()
        finally:
            consumer.close()

    def relay() -> None:
        try:
            events.run_relay(stop, log)
        except Exception as error:
            log.error("relay broke", exc_info=error)
            broken.set()
            stop.set()

    beside = [threading.Thread(target=take_requests, name="intake"), threading.Thread(target=relay, name="relay")]
    for thread in beside:
        thread.start()
    log.info("worker ready", model=model.identity.name, version=model.identity.version)
    try:
        worker.run()
    except Exception as error:
        log.error("worker broke", exc_info=error)
        broken.set()
    finally:
        stop.set()
        worker.wake.set()
        decoding.close()
        for thread in beside:
            thread.join()
    return 1 if broken.is_set() else 0


def wait_for_schema(engine: Engine, stop: threading.Event) -> None:
    """Returns once the tables exist (another process migrates) or `stop` is set."""
    while not stop.is_set():
        with suppress(Busy):
            if has_schema(engine):
                return
        stop.wait(0.2)
