"""Each service's handler on both sides: what comes twice or late changes nothing, and no revision vanishes."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from hilum.adapters.folder import FolderInstances
from hilum.adapters.sql import tables
from hilum.adapters.sql.database import reading, transaction
from hilum.contracts.catalogue import EXAMPLES, MESSAGES
from hilum.contracts.topics import FINDINGS_PRODUCED, INFERENCE, STUDY_ENDED, STUDY_READY
from hilum.contracts.trace import begin
from hilum.domain.identity import study_key
from hilum.domain.results import Format
from hilum.ports.events import Consumer, Outgoing, Received
from hilum.runtime.config import Hl7Destination, Site
from hilum.runtime.consume import consume
from hilum.runtime.logs import Log
from hilum.testing.clock import SetClock
from hilum.testing.event_logs import Side
from hilum.testing.model import FakeModel
from hilum.testing.seeding import SeededStudy
from hilum_listener.handlers.route import GROUP as ROUTE
from hilum_listener.handlers.route import Router
from hilum_results.settings import Settings as ResultsSettings
from hilum_results.transport.service import GROUP as RESULTS
from hilum_results.transport.service import Desk
from hilum_worker.handlers.work import Worker
from hilum_worker.settings import Settings as WorkerSettings
from hilum_worker.transport.serve import GROUP as WORKER

CLOCK = SetClock(datetime(2026, 11, 24, 16, tzinfo=UTC))
LOG = Log("hilum.test")
UID = "1.2.826.0.1.3680043.8.498.77"
TRACE = begin(UID, 1)
INFERENCE_STAT, INFERENCE_ROUTINE = "inference.stat", "inference.routine"
Handler = Callable[[Connection, Received], None]


@pytest.fixture
def set_clock() -> SetClock:
    return CLOCK


def message(schema: str, topic: str, *, study: str = UID, **changes: object) -> Outgoing:
    example = json.loads((EXAMPLES / f"{schema}.json").read_text())
    content = MESSAGES[schema].model_validate({**example, "study_instance_uid": study, **changes})
    return Outgoing(topic, study_key(study), content.model_dump_json(), TRACE)


class Counted:
    """Stops the loop once so many messages were handled."""

    def __init__(self, consumer: Consumer, count: int, stop: threading.Event) -> None:
        self._consumer, self._left, self._stop = consumer, count, stop

    def poll(self, *, timeout_s: float, limit: int = 16) -> Any:
        if self._left <= 0:
            self._stop.set()
            return ()
        found = self._consumer.poll(timeout_s=timeout_s, limit=limit)
        self._left -= len(found)
        return found

    def commit(self, connection: Any, received: Received) -> None:
        self._consumer.commit(connection, received)

    def dead_letter(self, connection: Any, received: Received, reason: str, attempt: int = 1) -> None:
        raise AssertionError(reason)


def handle(
    side: Side, group: str, topics: list[str], count: int, of: Callable[[Consumer], tuple[Consumer, Handler]]
) -> None:
    """Runs a handler as its service does, over so many messages."""
    side.travel()
    stop, reader = threading.Event(), side.consumer(group, topics)
    consumer, handler = of(Counted(reader, count, stop))
    consume(consumer, handler, transaction=lambda: transaction(side.engine), stop=stop, log=LOG)
    reader.close()


def published(side: Side, *topics: str) -> list[tuple[str, int, dict[str, str]]]:
    """What went out on these topics: topic, revision, headers."""
    reader = side.consumer(f"look at {topics}", topics)
    found = side.read(reader)
    reader.close()
    return sorted((r.topic, int(json.loads(r.payload)["revision"]), dict(r.headers)) for r in found)


def rows(side: Side, table: sa.Table, *columns: str) -> list[tuple[Any, ...]]:
    with reading(side.engine) as connection:
        query = sa.select(*(table.c[name] for name in columns)).order_by(*(table.c[name] for name in columns))
        return [tuple(row) for row in connection.execute(query)]


def test_route_asks_for_each_revision_once_and_ends_the_one_that_was_overtaken(side: Side) -> None:
    for revision in (2, 1, 2, 1):
        side.publish(message("study.ready", STUDY_READY.name, revision=revision, priors=[]))
    router = Router(Site().domain_rules, side.publisher, CLOCK)
    handle(side, ROUTE, [STUDY_READY.name], 4, lambda consumer: (consumer, router.handle))
    assert rows(side, tables.routes, "revision", "lane") == [(1, None), (2, "stat")]
    assert published(side, INFERENCE_STAT) == [(INFERENCE_STAT, 2, TRACE)]
    assert published(side, STUDY_ENDED.name) == [(STUDY_ENDED.name, 1, TRACE)]


def test_the_worker_has_one_job_a_request_and_ends_the_revision_that_was_overtaken(side: Side, tmp_path: Path) -> None:
    for revision, topic in ((2, INFERENCE_ROUTINE), (1, INFERENCE_STAT)) * 2:
        side.publish(message("inference.requested", topic, revision=revision, priors=[]))
    worker = Worker(
        settings=WorkerSettings(data=tmp_path, checkpoint=tmp_path),
        engine=side.engine,
        publisher=side.publisher,
        store=FolderInstances(tmp_path / "spool"),
        model=FakeModel(),
        clock=CLOCK,
        log=LOG,
        stop=threading.Event(),
        wake=threading.Event(),
    )
    topics = [topic.name for topic in INFERENCE.values()]
    handle(side, WORKER, topics, 4, lambda consumer: (consumer, worker.intake))
    assert rows(side, tables.jobs, "revision", "state") == [(1, "superseded"), (2, "queued")]
    assert published(side, STUDY_ENDED.name) == [(STUDY_ENDED.name, 1, TRACE)]


def test_results_has_one_result_and_one_end_a_revision_and_sends_only_the_newest(side: Side, tmp_path: Path) -> None:
    with transaction(side.engine) as connection:
        study = SeededStudy(connection, "one", start=CLOCK.now()).uid
    for revision in (2, 1, 2, 1):
        side.publish(message("findings.produced", FINDINGS_PRODUCED.name, study=study, revision=revision))
    for revision, state in ((1, "failed"), (3, "not_applicable"), (3, "not_applicable")):
        side.publish(message("study.ended", STUDY_ENDED.name, study=study, revision=revision, state=state))
    ris = Hl7Destination(name="ris", kind="hl7", host="127.0.0.1", port=1, simulation=True)

    def desk(consumer: Consumer) -> tuple[Consumer, Handler]:
        settings = ResultsSettings(data=tmp_path, destinations=(ris,))
        encoders = {Format.ORU: lambda _result: b"MSH"}
        made = Desk(consumer, engine=side.engine, settings=settings, encoders=encoders, clock=CLOCK, log=LOG)
        return made, made.handle

    handle(side, RESULTS, [FINDINGS_PRODUCED.name, STUDY_ENDED.name], 7, desk)
    assert rows(side, tables.results, "revision") == [(1,), (2,)]
    ends = [(1, "positive"), (2, "positive"), (3, "not_applicable")]
    assert rows(side, tables.outcomes, "revision", "state") == ends
    assert rows(side, tables.deliveries, "revision", "state") == [(1, "superseded"), (2, "queued")]
