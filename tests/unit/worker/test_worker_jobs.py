"""Jobs: one row per request, the most urgent first, each ended once."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from hilum.adapters.sql.database import reading, transaction
from hilum.adapters.sql.eventlog import SqlPublisher
from hilum.adapters.sql.tables import events
from hilum.adapters.sql.tables import jobs as table
from hilum.contracts.messages import FindingsProduced, InferenceRequested, StudyEnded
from hilum.contracts.trace import begin
from hilum.domain.errors import Busy, Reject, Retry
from hilum.domain.inference import ImageReference, InferenceRequest, Lane, Task
from hilum.domain.results import AiState
from hilum.ports.events import Received
from hilum.runtime.logs import Log
from hilum.testing.clock import SetClock
from hilum.testing.model import FakeModel
from hilum_worker.handlers import jobs
from hilum_worker.handlers.deadline import OwnProcess
from hilum_worker.handlers.work import Worker
from hilum_worker.settings import Settings

from .conftest import NOW, Bench, with_spot

LEASE, MAX_WAIT = timedelta(seconds=30), timedelta(seconds=120)


@dataclass
class Desk:
    """A worker on a bench, its clock, and what it published."""

    bench: Bench
    worker: Worker
    clock: SetClock

    def take(self, request: InferenceRequest, headers: dict[str, str] | None = None) -> None:
        payload = InferenceRequested.from_domain(request).model_dump_json()
        with transaction(self.bench.engine) as connection:
            self.worker.intake(connection, Received("inference.routine", 1, "key", payload, headers or {}))

    def rows(self) -> list[Any]:
        with reading(self.bench.engine) as connection:
            return list(connection.execute(sa.select(table).order_by(table.c.enqueued_at, table.c.revision)))

    def published(self) -> list[tuple[str, str]]:
        with reading(self.bench.engine) as connection:
            return [(row.topic, row.payload) for row in connection.execute(sa.select(events).order_by("offset"))]

    def ended(self) -> list[StudyEnded]:
        return [StudyEnded.model_validate_json(text) for topic, text in self.published() if topic == "study.ended"]


def desk(
    bench: Bench,
    before: Callable[[Task], None] = lambda _task: None,
    *,
    attempts: int = 3,
    lease: timedelta = LEASE,
    max_job: timedelta = timedelta(minutes=15),
    last_beat: timedelta = timedelta(seconds=20),
    process: OwnProcess | None = None,
    clock: SetClock | None = None,
) -> Desk:
    clock = clock or SetClock(NOW)
    worker = Worker(
        settings=Settings(
            data=bench.data,
            checkpoint=bench.data,
            attempts=attempts,
            lease=lease,
            max_wait=MAX_WAIT,
            max_job=max_job,
            last_beat=last_beat,
        ),
        engine=bench.engine,
        publisher=SqlPublisher(clock),
        store=bench.store,
        model=FakeModel(before=before),
        clock=clock,
        log=Log("hilum.worker"),
        stop=threading.Event(),
        wake=threading.Event(),
        process=process or OwnProcess(),
    )
    return Desk(bench, worker, clock)


@pytest.fixture
def spot(bench: Bench) -> ImageReference:
    return bench.image(with_spot(), "spot")


def claim(bench: Bench, now: datetime, *, attempts: int = 3) -> Any:
    with transaction(bench.engine) as connection:
        return jobs.claim(connection, worker="w:1", now=now, lease=LEASE, max_wait=MAX_WAIT, attempts=attempts)


def test_a_request_that_comes_twice_is_one_job_and_one_result(bench: Bench, spot: ImageReference) -> None:
    at = desk(bench)
    for _ in range(2):
        at.take(bench.request(spot))
    assert at.worker.work_once()
    assert not at.worker.work_once()
    at.take(bench.request(spot))
    assert not at.worker.work_once()
    [(topic, payload)] = at.published()
    assert topic == "findings.produced"
    message = FindingsProduced.model_validate_json(payload)
    assert [finding.label for finding in message.findings] == ["Nodule"]
    assert message.timings_s.keys() == {"queue", "decode", "model"}
    assert [row.state for row in at.rows()] == ["done"]


def test_the_loop_is_woken_once_a_request_has_committed_and_not_before(bench: Bench, spot: ImageReference) -> None:
    """On PostgreSQL nobody sees the job before, and a loop woken too early would sleep through it."""
    at = desk(bench)
    payload = InferenceRequested.from_domain(bench.request(spot)).model_dump_json()
    with at.worker.taking() as connection:
        at.worker.intake(connection, Received("inference.routine", 1, "key", payload, {}))
        assert not at.worker.wake.is_set()
    assert at.worker.wake.is_set()


def test_whatever_becomes_of_a_request_its_trace_goes_on(bench: Bench, spot: ImageReference) -> None:
    def fail(_task: Task) -> None:
        raise Reject("no pixels")

    at, failing = desk(bench), desk(bench, fail)
    traces = {revision: begin("1.2.3", revision) for revision in (1, 2)}
    for revision, trace in traces.items():  # the second supersedes the first
        at.take(replace(bench.request(spot), revision=revision), {**trace, "other": "stays behind"})
    assert at.worker.work_once()
    at.take(bench.request(spot, study="1.2.4"), traces[1])
    assert failing.worker.work_once()
    with reading(bench.engine) as connection:
        found = [(row.topic, row.headers) for row in connection.execute(sa.select(events).order_by("offset"))]
    assert found == [("study.ended", traces[1]), ("findings.produced", traces[2]), ("study.ended", traces[1])]


def test_a_message_that_is_no_request_is_rejected(bench: Bench) -> None:
    at = desk(bench)
    with pytest.raises(Reject), transaction(bench.engine) as connection:
        at.worker.intake(connection, Received("inference.stat", 1, "key", '{"study_instance_uid": "x"}', {}))


def test_the_lane_decides_then_the_age_and_a_long_wait_lifts(bench: Bench, spot: ImageReference) -> None:
    def add(study: str, lane: Lane, seconds: float) -> None:
        with transaction(bench.engine) as connection:
            jobs.enqueue(connection, bench.request(spot, study=study, lane=lane), now=NOW + timedelta(seconds=seconds))

    order = [("old routine", Lane.ROUTINE, -130), ("routine", Lane.ROUTINE, -50), ("urgent", Lane.URGENT, -40)]
    order += [("late stat", Lane.STAT, -5), ("stat", Lane.STAT, -20)]
    for study, lane, seconds in order:
        add(study, lane, seconds)
    names = {bench.request(study=study).study_instance_uid: study for study, _, _ in order}
    claimed = [names[claim(bench, NOW).request.study_instance_uid] for _ in order]
    assert claimed == ["old routine", "stat", "late stat", "urgent", "routine"]
    assert claim(bench, NOW) is None


def test_whoever_lost_the_lease_can_end_nothing(bench: Bench, spot: ImageReference) -> None:
    with transaction(bench.engine) as connection:
        jobs.enqueue(connection, bench.request(spot), now=NOW)
    first = claim(bench, NOW)
    assert claim(bench, NOW + LEASE - timedelta(seconds=1)) is None
    second = claim(bench, NOW + LEASE)
    assert (first.attempt, second.attempt) == (1, 2)
    with transaction(bench.engine) as connection:
        assert not jobs.renew(connection, first, now=NOW, lease=LEASE)
        assert not jobs.end(connection, first, jobs.JobState.DONE, now=NOW)
        assert not jobs.give_back(connection, first, due_at=NOW)
        assert jobs.renew(connection, second, now=NOW + LEASE, lease=LEASE)
        assert jobs.end(connection, second, jobs.JobState.DONE, now=NOW)
        assert not jobs.end(connection, second, jobs.JobState.DONE, now=NOW)


def test_a_job_that_kills_every_worker_ends_failed_after_its_attempts(bench: Bench, spot: ImageReference) -> None:
    at = desk(bench)
    at.take(bench.request(spot))
    for number in range(3):  # each worker claims and is never heard of again
        assert isinstance(claim(bench, NOW + LEASE * number), jobs.Claim)
    at.clock.advance(LEASE * 3)
    assert at.worker.work_once()
    [ended] = at.ended()
    assert ended.state is AiState.FAILED
    assert "given up after 3 attempts: the process that examined the images ended" in ended.reason
    assert not at.worker.work_once()


def test_a_lower_revision_that_waits_ends_visibly_when_a_newer_one_comes(bench: Bench, spot: ImageReference) -> None:
    at = desk(bench)
    at.take(bench.request(spot, revision=1))
    at.take(bench.request(spot, revision=2))
    assert [row.state for row in at.rows()] == ["superseded", "queued"]
    [ended] = at.ended()
    assert (ended.revision, ended.state) == (1, AiState.NOT_APPLICABLE)
    at.take(bench.request(spot, revision=1))
    assert len(at.ended()) == 1
    at.worker.work_once()
    assert not at.worker.work_once()


def test_a_lower_revision_that_comes_late_is_never_run(bench: Bench, spot: ImageReference) -> None:
    at = desk(bench)
    at.take(bench.request(spot, revision=2))
    at.take(bench.request(spot, revision=1))
    assert sorted((row.revision, row.state) for row in at.rows()) == [(1, "superseded"), (2, "queued")]


def test_an_interrupted_lower_revision_is_not_run_again(bench: Bench, spot: ImageReference) -> None:
    at = desk(bench)
    at.take(bench.request(spot, revision=1))
    claim(bench, NOW)
    at.take(bench.request(spot, revision=2))
    at.clock.advance(LEASE)
    assert at.worker.work_once()
    assert at.worker.work_once()
    assert sorted((row.revision, row.state) for row in at.rows()) == [(1, "superseded"), (2, "done")]
    assert [ended.revision for ended in at.ended()] == [1]


def test_what_can_never_succeed_fails_at_once_with_its_reason(bench: Bench, spot: ImageReference) -> None:
    def refuse(_task: Task) -> None:
        raise Reject("the model's answer could not be read: box empty at character 7")

    at = desk(bench, refuse)
    at.take(bench.request(spot))
    at.worker.work_once()
    [ended] = at.ended()
    assert (ended.state, ended.reason) == (
        AiState.FAILED,
        "the model's answer could not be read: box empty at character 7",
    )
    assert [(row.state, row.attempts) for row in at.rows()] == [("failed", 1)]


def test_what_may_succeed_later_is_tried_again_with_growing_pauses_and_then_fails(
    bench: Bench, spot: ImageReference
) -> None:
    def refuse(_task: Task) -> None:
        raise Retry("a hiccup")

    at = desk(bench, refuse)
    at.take(bench.request(spot))
    for pause_s in (1, 2):
        assert at.worker.work_once()
        at.clock.advance(timedelta(seconds=pause_s - 0.1))
        assert not at.worker.work_once()
        at.clock.advance(timedelta(seconds=0.1))
    assert at.ended() == []
    assert at.worker.work_once()
    [ended] = at.ended()
    assert ended.reason == "given up after 3 attempts: a hiccup"


def test_a_stop_hands_the_job_back_without_counting_the_attempt(bench: Bench, spot: ImageReference) -> None:
    def refuse(_task: Task) -> None:
        raise Busy("the worker is stopping")

    at = desk(bench, refuse)
    at.take(bench.request(spot))
    with pytest.raises(Busy):
        at.worker.work_once()
    [row] = at.rows()
    assert (row.state, row.attempts, row.lease_until) == ("queued", 0, None)
    assert at.published() == []


def test_a_bug_ends_the_worker_and_leaves_the_attempt_counted(bench: Bench, spot: ImageReference) -> None:
    def break_down(_task: Task) -> None:
        raise KeyError("Doe^Jane")

    at = desk(bench, break_down, attempts=2)
    at.take(bench.request(spot))
    for _ in range(2):
        with pytest.raises(KeyError):
            at.worker.work_once()
        at.clock.advance(timedelta(seconds=10))
    [ended] = at.ended()
    assert ended.reason == "given up after 2 attempts: a fault in the worker (KeyError)"


def test_a_result_whose_lease_was_lost_is_not_published(bench: Bench, spot: ImageReference) -> None:
    at: Desk

    def lose(_task: Task) -> None:
        claim(bench, NOW + LEASE)

    at = desk(bench, lose)
    at.take(bench.request(spot))
    at.worker.work_once()
    assert at.published() == []
    assert [row.state for row in at.rows()] == ["claimed"]


SOON = timedelta(milliseconds=20)


class Process(OwnProcess):
    """Stands for the worker's process: notes how it ended, and what hung is let go so that the test goes on."""

    def __init__(self) -> None:
        self.ends = 0
        self.timers: list[float | None] = []
        self.ended = threading.Event()

    def end(self) -> None:
        self.ends += 1
        self.ended.set()

    def end_in(self, seconds: float) -> None:
        self.timers.append(seconds)

    def go_on(self) -> None:
        self.timers.append(None)

    def hang(self, _task: Task) -> None:
        assert self.ended.wait(60), "nothing ended the process"


def test_a_job_that_hangs_ends_the_process_and_after_the_last_attempt_its_study(
    bench: Bench, spot: ImageReference
) -> None:
    process = Process()
    at = desk(bench, process.hang, attempts=2, lease=SOON, max_job=5 * SOON, process=process)
    at.take(bench.request(spot))
    at.worker.work_once()
    assert process.ends == 1
    assert [(row.state, row.attempts, row.last_error) for row in at.rows()] == [("queued", 1, "no answer within 0.1 s")]
    assert at.published() == []
    at.clock.advance(timedelta(seconds=1))
    process.ended.clear()
    at.worker.work_once()
    assert process.ends == 2
    [ended] = at.ended()
    assert (ended.state, ended.reason) == (AiState.FAILED, "given up after 2 attempts: no answer within 0.1 s")
    assert [row.state for row in at.rows()] == ["failed"]


def test_a_timer_that_needs_no_thread_stands_behind_the_deadline_while_a_job_runs(
    bench: Bench, spot: ImageReference
) -> None:
    process = Process()
    at = desk(bench, process=process)
    at.take(bench.request(spot))
    assert at.worker.work_once()
    assert process.timers == [pytest.approx(991), None]
    assert process.ends == 0
    assert [row.state for row in at.rows()] == ["done"]


@dataclass
class TroubledClock(SetClock):
    """A clock that does something when one thread asks it."""

    thread: str
    do: Callable[[], None]

    def __post_init__(self) -> None:
        super().__init__(NOW)

    def now(self) -> datetime:
        if threading.current_thread().name == self.thread:
            self.do()
        return super().now()


@pytest.mark.parametrize("thread", ["lease", "deadline"])
def test_a_bug_in_a_watching_thread_ends_the_process(bench: Bench, spot: ImageReference, thread: str) -> None:
    def break_down() -> None:
        raise KeyError("Doe^Jane")

    process, clock = Process(), TroubledClock(thread, break_down)
    limit = SOON if thread == "deadline" else timedelta(minutes=15)
    at = desk(bench, process.hang, lease=SOON, max_job=limit, process=process, clock=clock)
    at.take(bench.request(spot))
    at.worker.work_once()
    assert process.ends == 1


def test_a_renewal_that_hangs_ends_the_process_when_the_job_is_done(bench: Bench, spot: ImageReference) -> None:
    process, begun = Process(), threading.Event()

    def hang() -> None:
        begun.set()
        assert process.ended.wait(60), "nothing ended the process"

    def think(_task: Task) -> None:
        assert begun.wait(60)

    at = desk(bench, think, lease=SOON, last_beat=SOON, process=process, clock=TroubledClock("lease", hang))
    at.take(bench.request(spot))
    at.worker.work_once()
    assert process.ends == 1


def test_jobs_of_a_process_that_is_gone_are_free_at_once(bench: Bench, spot: ImageReference) -> None:
    host = jobs.worker_name().rsplit(":", 1)[0]
    names = {"gone": f"{host}:{2**22 - 1}", "alive": f"{host}:{os.getppid()}", "elsewhere": "other-host:1"}
    with transaction(bench.engine) as connection:
        for study, worker in names.items():
            jobs.enqueue(connection, bench.request(spot, study=study), now=NOW)
            jobs.claim(connection, worker=worker, now=NOW, lease=LEASE, max_wait=MAX_WAIT, attempts=3)
        assert jobs.free_of_the_dead(connection, now=NOW) == 1
    again = claim(bench, NOW)
    assert again.request.study_instance_uid == bench.request(study="gone").study_instance_uid
    assert again.attempt == 2
