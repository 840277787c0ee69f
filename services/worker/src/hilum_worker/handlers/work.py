"""The worker's loop: claim, examine under a heartbeat, end the job and publish in one transaction."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from sqlalchemy import Connection, Engine

from hilum.adapters.dicom.pixels import model_frame
from hilum.adapters.sql.database import transaction
from hilum.contracts.messages import FindingsProduced, InferenceRequested, StudyEnded
from hilum.contracts.topics import FINDINGS_PRODUCED, STUDY_ENDED
from hilum.contracts.trace import carried
from hilum.domain.errors import Busy, Reject, Retry
from hilum.domain.findings import Findings
from hilum.domain.identity import study_key
from hilum.domain.results import AiState, Ended
from hilum.ports.clock import Clock
from hilum.ports.events import Outgoing, Publisher, Received
from hilum.ports.instances import InstanceStore
from hilum.ports.model import Model
from hilum.runtime.logs import Log
from hilum_worker.handlers import jobs
from hilum_worker.handlers.deadline import OwnProcess, ends_within
from hilum_worker.handlers.examine import Decode, examine
from hilum_worker.handlers.jobs import Claim, Exhausted, JobState, Superseded
from hilum_worker.settings import Settings

_IDLE_S = 0.5
_BUSY_PAUSE_S = 1.0
_DIED = "the process that examined the images ended each time without an answer"


@dataclass(frozen=True, slots=True)
class Worker:
    """Everything a job needs. `wake` is set when a job may have come; `stop` ends the loop.

    `process` is ended for a job that hangs, and for a bug in a thread whose exceptions nobody sees. `decode` makes the
    frames; at a site it does so in a process of its own.
    """

    settings: Settings
    engine: Engine
    publisher: Publisher
    store: InstanceStore
    model: Model
    clock: Clock
    log: Log
    stop: threading.Event
    wake: threading.Event
    process: OwnProcess = field(default_factory=OwnProcess)
    decode: Decode = model_frame

    def intake(self, connection: Connection, received: Received) -> None:
        """Turns a request into a job row; the caller commits the offset in the same transaction.

        Raises:
            Reject: the message is no request.
        """
        try:
            request = InferenceRequested.model_validate_json(received.payload).to_domain()
        except ValueError as error:
            raise Reject(f"no inference request: {type(error).__name__}") from error
        for replaced in jobs.enqueue(connection, request, now=self.clock.now(), headers=carried(received.headers)):
            self._publish_superseded(connection, replaced)

    @contextmanager
    def taking(self) -> Iterator[Connection]:
        """A transaction of the intake; once it has committed, the loop looks for jobs."""
        with transaction(self.engine) as connection:
            yield connection
        self.wake.set()

    def run(self) -> None:
        """Works until `stop` is set. An unexpected exception ends it, after the attempt was noted."""
        freed: int | None = None
        while not self.stop.is_set():
            self.wake.clear()
            try:
                if freed is None:
                    freed = self._free_of_the_dead()
                if not self.work_once():
                    self.wake.wait(_IDLE_S)
            except Busy as error:
                self.log.warning("waiting", reason=error.reason, seconds=_BUSY_PAUSE_S)
                self.stop.wait(_BUSY_PAUSE_S)

    def _free_of_the_dead(self) -> int:
        with transaction(self.engine) as connection:
            freed = jobs.free_of_the_dead(connection, now=self.clock.now())
        if freed:
            self.log.warning("freed jobs of a worker that is gone", count=freed)
        return freed

    def work_once(self) -> bool:
        """Claims and ends one job; False when none is free.

        Raises:
            Busy: the database or the model is away; no job was taken, or it is free again.
        """
        self.model.ready()
        with transaction(self.engine) as connection:
            taken = jobs.claim(
                connection,
                worker=jobs.worker_name(),
                now=self.clock.now(),
                lease=self.settings.lease,
                max_wait=self.settings.max_wait,
                attempts=self.settings.attempts,
            )
            match taken:
                case Exhausted(attempts=attempts, last_error=last_error):
                    reason = f"given up after {attempts} attempts: {last_error or _DIED}"
                    self._publish_ended(connection, taken, AiState.FAILED, reason)
                case Superseded():
                    self._publish_superseded(connection, taken)
        if isinstance(taken, Claim):
            held = taken
            with ends_within(self.settings.max_job, lambda: self._overrun(held), self.process):
                self._attempt(held)
        return taken is not None

    def _attempt(self, held: Claim) -> None:
        key, request = study_key(held.request.study_instance_uid), held.request
        self.log.info("job claimed", study=key, revision=request.revision, lane=request.lane, attempt=held.attempt)
        try:
            with self._heartbeat(held):
                found = examine(
                    request,
                    self.model,
                    self.store,
                    self.clock,
                    claimed_at=held.claimed_at,
                    longest_side=self.settings.longest_side,
                    decode=self.decode,
                )
        except Reject as error:
            self._failed(held, error.reason)
        except Retry as error:
            self._again(held, error.reason)
        except Busy as error:
            self._hand_back(held, error.reason)
            raise
        except Exception as error:
            self._again(held, f"a fault in the worker ({type(error).__name__})")
            raise
        else:
            self._done(held, found)

    def _done(self, held: Claim, found: Findings) -> None:
        message = Outgoing(
            FINDINGS_PRODUCED.name,
            study_key(found.study_instance_uid),
            FindingsProduced.from_domain(found).model_dump_json(),
            held.headers,
        )
        with transaction(self.engine) as connection:
            mine = jobs.end(connection, held, JobState.DONE, now=self.clock.now())
            if mine:
                self.publisher.publish(connection, [message])
        self._tell("findings produced" if mine else "lease lost, result dropped", held, count=len(found.findings))

    def _failed(self, held: Claim, reason: str) -> None:
        with transaction(self.engine) as connection:
            mine = jobs.end(connection, held, JobState.FAILED, now=self.clock.now(), error=reason)
            if mine:
                self._publish_ended(connection, held, AiState.FAILED, reason)
        self._tell("study failed" if mine else "lease lost, failure dropped", held, reason=reason)

    def _again(self, held: Claim, reason: str) -> None:
        """Another attempt later, or the end when there is none left."""
        if held.attempt >= self.settings.attempts:
            self._failed(held, f"given up after {held.attempt} attempts: {reason}")
            return
        pause: timedelta = self.settings.first_retry * 2 ** (held.attempt - 1)
        with transaction(self.engine) as connection:
            jobs.give_back(connection, held, due_at=self.clock.now() + pause, error=reason)
        self._tell("attempt failed", held, reason=reason, seconds=pause.total_seconds())

    def _overrun(self, held: Claim) -> None:
        """Notes why the process is about to end; if that fails, the lease ends by itself."""
        reason = f"no answer within {self.settings.max_job.total_seconds():g} s"
        self._tell("job hangs, the worker ends", held, reason=reason)
        try:
            self._again(held, reason)
        except Exception as error:
            self.log.error("why the job ends could not be noted", exc_info=error)

    def _hand_back(self, held: Claim, reason: str) -> None:
        with transaction(self.engine) as connection:
            jobs.give_back(connection, held, due_at=self.clock.now(), error="", count_attempt=False)
        self._tell("job handed back", held, reason=reason)

    def _publish_superseded(self, connection: Connection, replaced: Superseded) -> None:
        """Every revision ends in one visible state, also one that nobody looked at."""
        reason = "later images came before the AI looked at this revision; a newer revision replaces it"
        self._publish_ended(connection, replaced, AiState.NOT_APPLICABLE, reason)

    def _publish_ended(
        self, connection: Connection, job: Claim | Exhausted | Superseded, state: AiState, reason: str
    ) -> None:
        request = job.request
        ended = Ended(request.study_instance_uid, request.revision, state, reason, self.clock.now())
        payload = StudyEnded.from_domain(ended).model_dump_json()
        key = study_key(ended.study_instance_uid)
        self.publisher.publish(connection, [Outgoing(STUDY_ENDED.name, key, payload, job.headers)])

    @contextmanager
    def _heartbeat(self, held: Claim) -> Iterator[None]:
        """Renews the lease from a thread of its own while the model thinks.

        A beat that hangs ends the process: it may hold the database's write lock, and then nothing works here any more.
        """
        finished = threading.Event()
        thread = threading.Thread(target=self._beat, args=(held, finished), name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            finished.set()
            thread.join(self.settings.last_beat.total_seconds())
            if thread.is_alive():
                self.log.error(
                    "the lease's renewal hangs, the worker ends", seconds=self.settings.last_beat.total_seconds()
                )
                self.process.end()

    def _beat(self, held: Claim, finished: threading.Event) -> None:
        while not finished.wait(self.settings.lease.total_seconds() / 3):
            try:
                with transaction(self.engine) as connection:
                    if not jobs.renew(connection, held, now=self.clock.now(), lease=self.settings.lease):
                        return  # the result will be refused when it comes
            except Busy as error:
                self.log.warning("lease not renewed", reason=error.reason)
            except Exception as error:  # a bug: it ends the process, and the supervisor starts a new one
                self.log.error("lease broke", exc_info=error)
                self.process.end()
                return

    def _tell(self, event: str, held: Claim, **keys: object) -> None:
        self.log.info(event, study=study_key(held.request.study_instance_uid), revision=held.request.revision, **keys)
