"""Many processes on one PostgreSQL: each job is claimed once, each study folded, completed, routed and stored once."""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.sql import tables
from hilum.adapters.sql.database import Conflict, in_transaction, reading, transaction
from hilum.adapters.sql.eventlog import SqlPublisher
from hilum.contracts.messages import StudyReady
from hilum.domain.errors import Busy
from hilum.domain.identity import derive_uid, study_key
from hilum.domain.inference import ImageReference, InferenceRequest, Lane, Task, TaskKind
from hilum.ports.events import Received
from hilum.runtime.config import Site, parse
from hilum.testing import results as samples
from hilum.testing.clock import SetClock
from hilum.testing.postgresql import Database
from hilum_listener.handlers.route import Router
from hilum_listener.settings import Places
from hilum_listener.testing import QUIET, START, Listener
from hilum_results.encode import ENCODERS
from hilum_results.handlers import intake
from hilum_results.settings import Settings
from hilum_worker.handlers import jobs

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
LEASE = timedelta(seconds=30)
T = TypeVar("T")


@pytest.fixture
def engine(postgresql_database: Database) -> Iterator[Engine]:
    opened = postgresql_database.open(pool_size=16)
    yield opened
    opened.dispose()


def at_once(*works: Callable[[], T]) -> list[T]:
    """What each returns, all started at one moment; what one raises is raised."""
    barrier = threading.Barrier(len(works))

    def begin(work: Callable[[], T]) -> T:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(begin, work) for work in works]]


def request(number: int, *, revision: int = 1, lane: Lane = Lane.ROUTINE) -> InferenceRequest:
    uid = derive_uid("test-study", str(number))
    image = ImageReference(uid, uid, "1.2", "spool:x", 1, 1, 8, 8)
    return InferenceRequest(uid, revision, lane, (Task(TaskKind.REPORT),), (image,), "rule", NOW, NOW)


def claim(engine: Engine, worker: str, *, now: datetime = NOW, max_wait: timedelta = timedelta(hours=1)) -> object:
    with transaction(engine) as connection:
        return jobs.claim(connection, worker=worker, now=now, lease=LEASE, max_wait=max_wait, attempts=3)


def rows(engine: Engine, table: sa.Table) -> Sequence[sa.Row[tuple[object, ...]]]:
    with reading(engine) as connection:
        return connection.execute(sa.select(table)).all()


def test_eight_workers_claim_forty_jobs_each_once(engine: Engine) -> None:
    with transaction(engine) as connection:
        for number in range(40):
            jobs.enqueue(connection, request(number), now=NOW)

    def work(name: str) -> list[jobs.Claim]:
        mine = []
        while isinstance(taken := claim(engine, name), jobs.Claim):
            mine.append(taken)
        return mine

    taken = at_once(*(lambda name=f"w:{n}": work(name) for n in range(8)))
    claimed = [one.request.request_id for one in itertools.chain(*taken)]
    assert sorted(claimed) == sorted(request(number).request_id for number in range(40))
    assert {(row.state, row.attempts, row.token) for row in rows(engine, tables.jobs)} == {("claimed", 1, 1)}


def test_what_waited_its_limit_is_claimed_before_stat_jobs_also_by_many(engine: Engine) -> None:
    with transaction(engine) as connection:
        for number in range(4):
            jobs.enqueue(connection, request(number), now=NOW - timedelta(minutes=10))
        for number in range(4, 12):
            jobs.enqueue(connection, request(number, lane=Lane.STAT), now=NOW)
    taken = at_once(*(lambda name=f"w:{n}": claim(engine, name, max_wait=timedelta(minutes=5)) for n in range(4)))
    assert {one.request.lane for one in taken if isinstance(one, jobs.Claim)} == {Lane.ROUTINE}
    assert isinstance(claim(engine, "w:9"), jobs.Claim)


def test_a_worker_that_was_fenced_off_changes_nothing(engine: Engine) -> None:
    with transaction(engine) as connection:
        jobs.enqueue(connection, request(1), now=NOW)
    lost, held = claim(engine, "a:1"), claim(engine, "b:1", now=NOW + LEASE)
    assert isinstance(lost, jobs.Claim)
    assert isinstance(held, jobs.Claim)

    def end(of: jobs.Claim, state: jobs.JobState) -> bool:
        with transaction(engine) as connection:
            return jobs.end(connection, of, state, now=NOW)

    ended = at_once(lambda: end(lost, jobs.JobState.FAILED), lambda: end(held, jobs.JobState.DONE))
    assert ended == [False, True]
    (row,) = rows(engine, tables.jobs)
    assert (row.state, row.attempts) == ("done", 2)


def test_a_job_claimed_while_a_newer_revision_comes_is_superseded_or_runs_and_never_both(
    engine: Engine,
) -> None:
    for number in range(20):
        with transaction(engine) as connection:
            jobs.enqueue(connection, request(number), now=NOW)

        def newer(number: int = number) -> object:
            with transaction(engine) as connection:
                return jobs.enqueue(connection, request(number, revision=2), now=NOW)

        replaced, taken = at_once(newer, lambda: claim(engine, "a:1"))
        with reading(engine) as connection:
            state = connection.execute(
                sa.select(tables.jobs.c.state).where(tables.jobs.c.request_id == request(number).request_id)
            ).scalar_one()
            connection.rollback()
        runs = isinstance(taken, jobs.Claim) and taken.request.request_id == request(number).request_id
        assert (state == "claimed") is runs
        assert (state == "superseded") is not runs
        assert bool(replaced) or isinstance(taken, jobs.Superseded) or runs
        with transaction(engine) as connection:
            connection.execute(sa.delete(tables.jobs))


def test_two_that_route_one_revision_ask_once(engine: Engine, tmp_path: Path) -> None:
    listener = Listener(Places(tmp_path), engine, SetClock(START))
    listener.image()
    listener.step(after=QUIET)
    (ready,) = listener.ready()
    message = Received("study.ready", 1, study_key(ready.study_instance_uid), ready.model_dump_json(), {})
    router = Router(Site().domain_rules, SqlPublisher(listener.clock), listener.clock)

    def handle() -> None:
        in_transaction(engine, lambda connection: router.handle(connection, message))

    at_once(*[handle] * 4)
    assert len(rows(engine, tables.routes)) == 1
    assert len([row for row in rows(engine, tables.events) if row.topic != "study.ready"]) == 1
    assert StudyReady.model_validate_json(message.payload) == ready


def test_two_that_store_one_result_store_it_once_and_the_other_meets_it_when_it_tries_again(engine: Engine) -> None:
    settings = Settings.of(
        parse('[[destinations]]\nname="ris"\nkind="hl7"\nhost="h"\nport=1\nsimulation=true'), data=Path("unused")
    )
    one = samples.image(1)
    of = samples.findings([samples.finding("Nodule", 1, on=one)], images=[one])
    with transaction(engine) as connection:
        samples.index_study(connection, at=NOW)

    def store(state: threading.Barrier) -> str:
        with reading(engine) as connection:
            prepared = intake.prepare(
                connection, of, settings=settings, encoders=ENCODERS, now=NOW, on_failure=lambda _format, _error: None
            )
        state.wait()
        if prepared is None:
            return "known"
        try:
            with transaction(engine) as connection:
                intake.store(connection, prepared, settings=settings, now=NOW)
        except Conflict:
            return "conflict"
        return "stored"

    prepared = threading.Barrier(3)
    assert sorted(at_once(*[lambda: store(prepared)] * 3)) == ["conflict", "conflict", "stored"]
    assert len(rows(engine, tables.results)) == len(rows(engine, tables.deliveries)) == 1
    assert store(threading.Barrier(1)) == "known"


def test_work_that_meets_a_deadlock_is_done_again(engine: Engine) -> None:
    with transaction(engine) as connection:
        for name in "ab":
            connection.execute(sa.insert(tables.journal_positions).values(journal=name, position=0))
    barrier = threading.Barrier(2)
    tries: list[str] = []

    def add(order: str) -> None:
        def work(connection: sa.Connection) -> None:
            tries.append(order)
            for number, name in enumerate(order):
                connection.execute(
                    sa.update(tables.journal_positions)
                    .where(tables.journal_positions.c.journal == name)
                    .values(position=tables.journal_positions.c.position + 1)
                )
                if number == 0 and len(tries) <= 2:
                    barrier.wait(10)

        in_transaction(engine, work)

    at_once(lambda: add("ab"), lambda: add("ba"))
    assert len(tries) == 3
    assert {row.position for row in rows(engine, tables.journal_positions)} == {2}


def test_a_lock_that_stays_is_busy(engine: Engine) -> None:
    with transaction(engine) as connection:
        connection.execute(sa.insert(tables.journal_positions).values(journal="a", position=0))
    change = sa.update(tables.journal_positions).values(position=1)

    def impatient() -> None:
        with transaction(engine) as other:
            other.execute(sa.text("SET LOCAL lock_timeout = '50ms'"))
            other.execute(change)

    with transaction(engine) as holder:
        holder.execute(change)
        with pytest.raises(Busy, match="LockNotAvailable 55P03"):
            impatient()
