"""Real tritonservers that are killed, paused, overloaded, wrong or mad, and the client and the worker that ask them."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file

from hilum.adapters.dicom.header import read_header
from hilum.contracts.messages import FindingsProduced
from hilum.domain.errors import Busy, HilumError, Retry
from hilum.domain.inference import Lane, Task, TaskKind
from hilum.domain.results import AiState
from hilum.runtime.config import load
from hilum.runtime.logs import Log
from hilum.testing.external import wait_until
from hilum.testing.model_server import WAITING_DIGEST, ModelServer, medmo_server, waiting_server
from hilum_medmo.testing.waiting import REPORT, WAITING_IDENTITY
from hilum_worker.ask import ask
from hilum_worker.medmo import default_checkpoint
from hilum_worker.testing_site import WorkerSite, bright_spot
from hilum_worker.triton.model import TritonModel
from hilum_worker.triton.replica import Patience, Replica

pytestmark = pytest.mark.slow

IMAGE = np.zeros((64, 64, 3), np.uint8)
TELL, FIND = Task(TaskKind.REPORT), Task(TaskKind.LOCATE)
Start = Callable[..., ModelServer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers with the waiting model; all are stopped in the end."""
    with ExitStack() as stack:
        count = iter(range(100))

        def begin(wait_ms: int = 50, **options: Any) -> ModelServer:
            server = waiting_server(tmp_path / f"server-{next(count)}", wait_ms=wait_ms, **options)
            return stack.enter_context(server)

        yield begin


def client(*servers: ModelServer, answer_s: float = 30, silence_s: float = 2, **options: Any) -> TritonModel:
    patience = Patience(answer_s, silence_s)
    replicas = [Replica(server.address, patience) for server in servers]
    return TritonModel(WAITING_IDENTITY, replicas, patience, Log("hilum.worker"), first=0, **options)


class Asking(threading.Thread):
    """A question under way. `outcome` is the answer's text or the error."""

    def __init__(self, model: TritonModel, task: Task = TELL, lane: Lane = Lane.ROUTINE) -> None:
        super().__init__(daemon=True)
        self._model, self._question, self._lane = model, task, lane
        self.outcome: str | HilumError | None = None
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self._model.answer(self._question, IMAGE, lane=self._lane).text
        except HilumError as error:
            self.outcome = error

    def end(self) -> str | HilumError | None:
        self.join(30)
        assert not self.is_alive()
        return self.outcome


def once_back(model: TritonModel, task: Task = TELL) -> str:
    """The answer once a server that rests after a failure is asked again."""
    found: list[str] = []

    def ask() -> bool:
        try:
            found.append(model.answer(task, IMAGE).text)
        except Busy:
            return False
        return True

    wait_until(ask, what="an answer")
    return found[0]


def settle() -> None:
    """Time for a request on this machine to reach its engine, many times over."""
    time.sleep(0.3)


def test_killed_in_the_middle_it_is_an_attempt_then_it_is_away_and_after_its_restart_it_answers(start: Start) -> None:
    server = start(wait_ms=1500)
    model = client(server)
    asking = Asking(model)
    settle()
    server.kill()
    outcome = asking.end()
    assert isinstance(outcome, Retry)
    assert outcome.reason == f"model server {server.address}: broke the connection"
    with pytest.raises(Busy):
        model.ready()
    with pytest.raises(Busy, match=server.address):
        model.answer(TELL, IMAGE)
    server.start()
    assert once_back(model) == REPORT


def test_when_one_is_killed_in_the_middle_another_answers(start: Start) -> None:
    one, other = start(wait_ms=1500), start()
    asking = Asking(client(one, other))
    settle()
    one.kill()
    assert asking.end() == REPORT


def test_paused_in_the_middle_it_counts_as_broken_after_the_silence_and_another_answers(start: Start) -> None:
    one, other = start(wait_ms=1500), start()
    alone, both = client(one, silence_s=1), client(one, other, silence_s=1)
    asked = [Asking(alone), Asking(both)]
    settle()
    one.pause()
    outcome, text = asked[0].end(), asked[1].end()
    assert isinstance(outcome, Retry)
    assert "gave no sign of life for 1 s" in outcome.reason
    assert text == REPORT
    one.resume()
    assert once_back(alone) == REPORT


def test_paused_before_it_is_asked_it_is_away_and_no_attempt(start: Start) -> None:
    one, other = start(), start()
    model = client(one, silence_s=1)
    assert model.answer(TELL, IMAGE).text == REPORT
    one.pause()
    assert client(one, other, silence_s=1).answer(TELL, IMAGE).text == REPORT
    with pytest.raises(Busy, match="doesn't answer within 1 s"):
        model.answer(TELL, IMAGE)
    one.resume()
    assert once_back(model) == REPORT


def test_a_server_with_other_weights_is_not_asked(start: Start) -> None:
    wrong, right = start(digest="f" * 64), start()
    assert client(wrong, right).answer(TELL, IMAGE).text == REPORT
    with pytest.raises(Busy, match=r"has other weights \(ffffffffffff\) than the expected ones"):
        client(wrong).answer(TELL, IMAGE)


def test_a_mad_model_is_an_attempt_unless_another_answers(start: Start) -> None:
    mad, sane = start(locate="Nodule <box>[[900, 0, 100, 50]]</box>"), start()
    assert client(mad, sane).answer(FIND, IMAGE).findings[0].box == (100, 200, 300, 400)
    with pytest.raises(Retry, match="the model's answer could not be read: box empty at character"):
        client(mad).answer(FIND, IMAGE)


def test_a_server_whose_queue_is_full_says_so_at_once(start: Start) -> None:
    server = start(wait_ms=1500, most_waiting=1)
    held = [Asking(client(server))]
    settle()
    held.append(Asking(client(server)))
    settle()
    began = time.monotonic()
    with pytest.raises(Busy, match="is overloaded: too many requests wait"):
        client(server).answer(TELL, IMAGE)
    assert time.monotonic() - began < 1
    assert [each.end() for each in held] == [REPORT, REPORT]


def test_a_stat_request_passes_the_queue(start: Start) -> None:
    server = start(wait_ms=400)
    order: list[str] = []

    def ask(name: str, lane: Lane) -> threading.Thread:
        def run() -> None:
            client(server).answer(TELL, IMAGE, lane=lane)
            order.append(name)

        thread = threading.Thread(target=run)
        thread.start()
        time.sleep(0.1)
        return thread

    threads = [ask("running", Lane.ROUTINE), ask("routine", Lane.ROUTINE), ask("stat", Lane.STAT)]
    for thread in threads:
        thread.join(30)
    assert order == ["running", "stat", "routine"]


@pytest.mark.parametrize("why", ["too slow", "stopped", "gone"])
def test_what_nobody_waits_for_any_more_leaves_its_place_to_the_next(start: Start, why: str) -> None:
    server = start(wait_ms=20_000)
    stop = threading.Event()
    model = client(server, answer_s=1.0 if why == "too slow" else 60, should_stop=stop.is_set)
    asking = Asking(model)
    settle()
    if why == "stopped":
        stop.set()
    elif why == "gone":
        model.close()
    outcome = asking.end()
    assert isinstance(outcome, Busy if why == "stopped" else Retry)
    if why == "too slow":
        assert outcome.reason == f"model server {server.address}: gave no answer within 1 s"
    # Its engine, of which there is one, is free: the next request runs into its own deadline, not into the queue's.
    with pytest.raises(Retry, match=r"gave no answer within 1\.5 s"):
        client(server, answer_s=1.5).answer(TELL, IMAGE)


def test_a_server_whose_model_process_dies_ends_so_that_it_is_started_again(start: Start) -> None:
    one, other = start(wait_ms=1500), start()
    asking = Asking(client(one, other))
    settle()
    [model_process] = [p for p in psutil.Process(one.process.pid).children() if p.name() != "sh"]
    model_process.kill()
    assert one.process.popen.wait(10) == -signal.SIGKILL
    assert asking.end() == REPORT
    one.start()
    assert client(one).answer(TELL, IMAGE).text == REPORT


def test_a_server_that_is_told_to_end_ends_without_a_kill_and_leaves_nothing(start: Start) -> None:
    server = start()
    assert client(server).answer(TELL, IMAGE).text == REPORT
    processes = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    assert len(processes) == 3  # the server, its model, and the watch between them
    server.process.popen.terminate()
    assert server.process.popen.wait(20) == 0
    wait_until(lambda: not any(each.is_running() for each in processes), what="the end of them all")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[WorkerSite]:
    site = WorkerSite(tmp_path)
    yield site
    site.engine.dispose()


def configured(site: WorkerSite, *servers: ModelServer, digest: str = WAITING_DIGEST, more: str = "") -> Path:
    path = site.data / "hilum.toml"
    addresses = ", ".join(f'"{server.address}"' for server in servers)
    own = f'digest = "{digest}"\n' if digest else ""
    path.write_text(f"[model]\nservers = [{addresses}]\nsilence_s = 2.0\n{own}{more}")
    return path


def test_the_worker_gets_from_triton_what_it_finds_in_process(site: WorkerSite, tmp_path: Path) -> None:
    file = Path(str(get_testdata_file("RG1_J2KR.dcm")))
    image, study_uid = site.keep(file), read_header(file).study_instance_uid
    site.ask(image, study_uid)
    with site.start() as worker:
        worker.wait_until(lambda: site.finished(1), timeout_s=120)
    site.ask(image, study_uid, revision=2)
    with (
        medmo_server(tmp_path / "server") as server,
        site.start("--config", configured(site, server, digest="")) as worker,
    ):
        worker.wait_until(lambda: site.finished(2), timeout_s=120)
        assert worker.stop() == 0
    assert site.ended() == []
    here, there = (_said(found) for found in site.produced())
    assert there == here
    patient = str(dcmread(file, stop_before_pixels=True).PatientID)
    assert patient
    assert patient not in site.logs[-1].read_text()
    assert patient not in (tmp_path / "server" / "log-0").read_text()


def _said(found: FindingsProduced) -> dict[str, Any]:
    """Without what belongs to the revision or the time."""
    values = found.model_dump(exclude={"request_id", "revision", "produced_at", "timings_s"})
    for finding in values["findings"]:
        del finding["tracking_uid"]
    return values


def test_a_worker_that_asks_servers_loads_no_engine_of_its_own() -> None:
    program = "import sys, hilum_worker.__main__; assert not {'onnxruntime', 'onnx', 'tokenizers'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]


def test_a_worker_whose_model_servers_are_killed_and_come_back_loses_nothing(site: WorkerSite, start: Start) -> None:
    one, other = start(wait_ms=300), start(wait_ms=300)
    studies = {site.ask_about(bright_spot(), f"study-{number}") for number in range(8)}
    with site.start("--config", configured(site, one, other)) as worker:
        worker.wait_until(lambda: site.finished(1), timeout_s=60)
        one.kill()
        worker.wait_until(lambda: site.finished(3), timeout_s=60)
        other.kill()
        worker.wait_until(lambda: "no model server answers" in worker.tail(), timeout_s=60)
        one.start()
        worker.wait_until(lambda: site.finished(5), timeout_s=60)
        one.pause()
        other.start()
        worker.wait_until(lambda: site.finished(8), timeout_s=60)
        one.resume()
        assert worker.stop() == 0
    assert {found.study_instance_uid for found in site.produced()} == studies
    assert len(site.produced()) == 8
    assert site.ended() == []
    events = site.logs[-1].read_text()
    assert "model server gives no answer" in events
    assert "model server answers again" in events


def test_while_its_only_server_is_away_a_worker_waits_and_takes_no_job(site: WorkerSite, start: Start) -> None:
    server = start()
    server.kill()
    site.ask_about(bright_spot(), "spot")
    config = configured(site, server, digest="")
    config.write_text(config.read_text() + f'checkpoint = "{default_checkpoint()}"\n')
    with site.start(
        "--config", config
    ) as worker:  # it knows its model by the checkpoint, so it needs no server to start
        worker.wait_until(lambda: worker.tail().count('"waiting"') >= 3, timeout_s=60)
        assert site.attempts() == [("queued", 0)]
        assert worker.stop() == 0


def test_a_worker_that_knows_its_model_by_digest_waits_for_a_server_that_has_it(site: WorkerSite, start: Start) -> None:
    wrong, right = start(digest="f" * 64), start()
    right.kill()
    site.ask_about(bright_spot(), "spot")
    with site.start("--config", configured(site, wrong, right)) as worker:
        worker.wait_until(lambda: "model server has other weights" in worker.tail(), timeout_s=60)
        assert "worker ready" not in worker.tail()
        right.start()
        worker.wait_until(lambda: site.finished(1), timeout_s=60)
        assert worker.stop() == 0
    [found] = site.produced()
    assert (found.model.name, found.model.digest) == ("MedMO-Waiting", WAITING_DIGEST)
    assert [(each.label, each.box) for each in found.findings] == [("Nodule", (10.0, 24.0, 30.0, 48.0))]


def test_a_study_that_no_server_answers_sensibly_ends_failed_with_the_reason(site: WorkerSite, start: Start) -> None:
    mad = [start(locate="Nodule <box>[["), start(locate="<script>")]
    site.ask_about(bright_spot(), "spot")
    config = configured(site, *mad, more="[worker]\nattempts = 2\n")
    with site.start("--config", config) as worker:
        worker.wait_until(lambda: site.finished(1), timeout_s=60)
        assert worker.stop() == 0
    [ended] = site.ended()
    assert ended.state is AiState.FAILED
    assert ended.reason.startswith("given up after 2 attempts: model server 127.0.0.1:")
    assert ended.reason.count("the model's answer could not be read: ") == 2
    assert site.attempts() == [("failed", 2)]
    assert "<script>" not in site.logs[-1].read_text()


def test_a_worker_told_to_stop_hands_its_job_back_while_the_server_thinks(site: WorkerSite, start: Start) -> None:
    server = start(wait_ms=60_000)
    study_uid = site.ask_about(bright_spot(), "spot")
    with site.start("--config", configured(site, server)) as worker:
        worker.wait_until(lambda: site.attempts() == [("claimed", 1)], timeout_s=60)
        settle()
        began = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - began < 5
    assert site.attempts() == [("queued", 0)]
    assert read_header(site.data / "spot.dcm").study_instance_uid == study_uid


def test_a_question_from_the_command_line_goes_to_the_servers_too(site: WorkerSite, start: Start) -> None:
    server = start()
    study_uid = site.ask_about(bright_spot(), "spot")
    config = configured(site, server)
    with site.start("--config", config) as worker:
        worker.wait_until(lambda: site.finished(1), timeout_s=60)
        assert worker.stop() == 0
    asked = ask(site.data, study_uid, "Is there a nodule?", site=load(config))
    assert (asked.text, asked.model.digest) == ("Yes.", WAITING_DIGEST)
    server.kill()
    with pytest.raises(Busy, match="no model server has the weights"):
        ask(site.data, study_uid, "Is there a nodule?", site=load(config))
