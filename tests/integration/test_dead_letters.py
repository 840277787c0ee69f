"""A message that no service can handle ends its study where people look: through the log and results in the ledger."""

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from hilum.adapters.folder import FolderInstances
from hilum.adapters.sql import ledger
from hilum.adapters.sql.database import database_path, open_database, reading, transaction
from hilum.adapters.sql.eventlog import SqlConsumer, SqlPublisher
from hilum.adapters.sql.schema import migrate
from hilum.contracts.topics import FINDINGS_PRODUCED, INFERENCE, STUDY_ENDED, STUDY_READY
from hilum.domain.identity import study_key
from hilum.domain.inference import Lane
from hilum.domain.results import AiState
from hilum.ports.events import Consumer, Outgoing, Received
from hilum.runtime.config import Site
from hilum.runtime.consume import consume
from hilum.runtime.logs import Log
from hilum.testing.clock import SetClock
from hilum.testing.model import FakeModel
from hilum.testing.seeding import SeededStudy
from hilum_listener.handlers.route import Router
from hilum_results.settings import Settings as ResultsSettings
from hilum_results.transport.service import Desk
from hilum_worker.handlers.work import Worker
from hilum_worker.settings import Settings as WorkerSettings

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
CLOCK, LOG = SetClock(NOW), Log("hilum.test")


class Drained:
    """A consumer that stops its loop once nothing is left."""

    def __init__(self, consumer: SqlConsumer, stop: threading.Event) -> None:
        self._consumer, self._stop = consumer, stop

    def poll(self, *, timeout_s: float, limit: int = 16) -> Sequence[Received]:
        found = self._consumer.poll(timeout_s=0, limit=limit)
        if not found:
            self._stop.set()
        return found

    def commit(self, connection: Any, received: Received) -> None:
        self._consumer.commit(connection, received)

    def dead_letter(self, connection: Any, received: Received, reason: str, attempt: int = 1) -> None:
        self._consumer.dead_letter(connection, received, reason, attempt)


def drain(
    engine: Engine, group: str, topics: Sequence[str], of: Callable[[Consumer], tuple[Consumer, Callable[..., None]]]
) -> None:
    stop = threading.Event()
    reader = SqlConsumer(engine, group=group, topics=topics, clock=CLOCK)
    consumer, handler = of(Drained(reader, stop))
    consume(consumer, handler, transaction=lambda: transaction(engine), stop=stop, log=LOG)
    reader.close()


def take_as_router(engine: Engine) -> None:
    router = Router(Site().domain_rules, SqlPublisher(CLOCK), CLOCK)
    drain(engine, "listener.route", [STUDY_READY.name], lambda consumer: (consumer, router.handle))


def take_as_worker(engine: Engine, data: Path) -> None:
    worker = Worker(
        settings=WorkerSettings(data=data, checkpoint=data),
        engine=engine,
        publisher=SqlPublisher(CLOCK),
        store=FolderInstances(data / "spool"),
        model=FakeModel(),
        clock=CLOCK,
        log=LOG,
        stop=threading.Event(),
        wake=threading.Event(),
    )
    drain(engine, "worker", [topic.name for topic in INFERENCE.values()], lambda consumer: (consumer, worker.intake))


def take_as_results(engine: Engine, data: Path) -> None:
    def desk(consumer: Consumer) -> tuple[Consumer, Callable[..., None]]:
        made = Desk(
            consumer,
            engine=engine,
            settings=ResultsSettings.of(Site(), data=data),
            encoders={},
            clock=CLOCK,
            log=LOG,
        )
        return made, made.handle

    drain(engine, "results", [FINDINGS_PRODUCED.name, STUDY_ENDED.name], desk)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    opened = open_database(database_path(tmp_path))
    migrate(opened)
    yield opened
    opened.dispose()


@pytest.mark.parametrize("topic", [STUDY_READY.name, "inference.routine", FINDINGS_PRODUCED.name, STUDY_ENDED.name])
def test_a_revision_whose_message_nobody_can_handle_is_shown_as_failed_with_the_reason(
    engine: Engine, tmp_path: Path, topic: str
) -> None:
    with transaction(engine) as connection:
        study = SeededStudy(connection, "one", start=NOW)
        study.image(np.zeros((20, 20), np.uint16))
        study.complete()
        if topic != STUDY_READY.name:
            study.route(Lane.ROUTINE)
        payload = f'{{"study_instance_uid": "{study.uid}", "revision": 1, "images": [{{"frame": 0}}]}}'
        SqlPublisher(CLOCK).publish(connection, [Outgoing(topic, study_key(study.uid), payload)])
    take_as_router(engine)
    take_as_worker(engine, tmp_path)
    take_as_results(engine, tmp_path)
    with reading(engine) as connection:
        detail = ledger.show_study(connection, study.uid)
        (letter,) = ledger.list_dead_letters(connection)
    assert detail is not None
    assert detail.state is AiState.FAILED
    assert detail.row.reason == f"a message about it could not be handled ({topic}): {letter.reason}"
