"""The worker as a process: killed, stopped, started again, and asked with real checkpoints."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from hilum.adapters.dicom.header import read_header
from hilum.domain.inference import Task, TaskKind
from hilum.domain.results import AiState
from hilum.testing.dicom_files import chest_image, write
from hilum.testing.external import Process, wait_until
from hilum.testing.hostile_files import data_set, file_of, nested, picture
from hilum.testing.model import DEADLY
from hilum_medmo.testing.random_checkpoint import write_random_checkpoint
from hilum_worker.ask import ask
from hilum_worker.medmo import default_checkpoint
from hilum_worker.testing_site import WorkerSite, bright_spot

DRIVER = Path(__file__).with_name("worker_with_a_rule.py")
TASKS = (Task(TaskKind.LOCATE), Task(TaskKind.REPORT), Task(TaskKind.QUESTION, "Is there a nodule?"))


class Site(WorkerSite):
    """With a gate: while it is closed, the model that follows a rule doesn't answer."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gate = folder / "gate"
        self.gate.mkdir()

    def start_ruled(self, *, attempts: int = 3, max_job_s: float = 900) -> Process:
        return self.process([sys.executable, DRIVER, self.data, self.gate, str(attempts), str(max_job_s)])

    def start_real(self, checkpoint: Path) -> Process:
        return self.start("--checkpoint", checkpoint)

    def close_gate(self) -> None:
        (self.gate / "asked").unlink(missing_ok=True)
        (self.gate / "closed").touch()

    def wait_until_asked(self, worker: Process) -> None:
        worker.wait_until((self.gate / "asked").exists, timeout_s=120)

    def open_gate(self) -> None:
        (self.gate / "closed").unlink()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.engine.dispose()


def test_a_worker_killed_in_the_middle_is_followed_by_one_that_gives_exactly_one_result(site: Site) -> None:
    site.close_gate()
    study_uid = site.ask_about(bright_spot(), "spot")
    with site.start_ruled() as worker:
        site.wait_until_asked(worker)
        worker.kill()
    assert site.attempts() == [("claimed", 1)]
    site.open_gate()
    with site.start_ruled() as worker:  # the first one's lease holds for a minute, but its process is gone
        worker.wait_until(lambda: site.finished(1), timeout_s=120)
        assert worker.stop() == 0
    with site.start_ruled() as worker:
        worker.wait_until(lambda: "worker ready" in worker.tail(), timeout_s=120)
        assert worker.stop() == 0
    [findings] = site.produced()
    assert site.ended() == []
    assert findings.study_instance_uid == study_uid
    [finding] = findings.findings
    assert (finding.label, finding.box) == ("Nodule", (20.0, 30.0, 50.0, 60.0))
    assert [answer.text for answer in findings.answers] == ["Yes."]
    assert site.attempts() == [("done", 2)]


def test_an_image_that_kills_its_worker_ends_failed_and_the_next_study_is_answered(site: Site) -> None:
    site.ask_about(np.full((16, 16), DEADLY, np.uint8), "deadly")
    codes = []
    for _ in range(2):
        with site.start_ruled(attempts=2) as worker:
            codes.append(worker.popen.wait(120))
    assert codes == [-9, -9]
    site.ask_about(bright_spot(), "spot")
    with site.start_ruled(attempts=2) as worker:
        worker.wait_until(lambda: site.finished(2), timeout_s=120)
    [ended] = site.ended()
    assert ended.state is AiState.FAILED
    assert ended.reason.startswith("given up after 2 attempts: the process that examined the images ended")
    assert len(site.produced()) == 1


def test_a_model_that_hangs_ends_its_process_and_after_the_last_attempt_the_study(site: Site) -> None:
    site.close_gate()
    site.ask_about(bright_spot(), "spot")
    codes = []
    for _ in range(2):
        with site.start_ruled(attempts=2, max_job_s=1) as worker:
            codes.append(worker.popen.wait(60))
    assert codes == [1, 1]
    assert "job hangs, the worker ends" in site.logs[-1].read_text()
    [ended] = site.ended()
    assert (ended.state, ended.reason) == (AiState.FAILED, "given up after 2 attempts: no answer within 1 s")
    assert site.attempts() == [("failed", 2)]


def test_a_decoder_that_hangs_with_the_interpreters_lock_ends_its_process_too(site: Site) -> None:
    (site.gate / "stuck").touch()
    site.ask_about(bright_spot(), "spot", PatientName="Sekret^Name")
    with site.start_ruled(attempts=1, max_job_s=1) as worker:
        assert worker.popen.wait(60) == 1
    assert "wait_at_the_gate" in site.logs[-1].read_text()
    assert "ekret" not in site.logs[-1].read_text()
    with site.start_ruled(attempts=1) as worker:
        worker.wait_until(lambda: site.finished(1), timeout_s=120)
    [ended] = site.ended()
    assert ended.state is AiState.FAILED
    assert ended.reason.startswith("given up after 1 attempts: the process that examined the images ended")


def test_hostile_files_end_their_studies_with_a_reason_and_the_next_is_answered(site: Site) -> None:
    deep, beyond = "sequences are nested more than 64 deep", "fewer pixels than its header says"
    hostile = {
        data_set("1", before=nested(200, defined=False)): deep,
        data_set("1", before=nested(260, defined=True)): deep,
        data_set("1", image=picture(rows=65535, columns=65535)): "claims 65535 x 65535 pixels",
        data_set("1", image=picture(frames="2147483647")): "claims 2147483647 frames",
        data_set("1", image=picture(rows=9000, columns=9000)): beyond,
    }
    expected = {}
    for number, (content, reason) in enumerate(hostile.items()):
        file = write(site.data / f"{number}.dcm", chest_image(bright_spot(), study=f"hostile-{number}"))
        image, study_uid = site.keep(file), read_header(file).study_instance_uid
        (site.data / "spool" / image.uri.removeprefix("spool:")).write_bytes(file_of(content))
        site.ask(image, study_uid)
        expected[study_uid] = reason
    site.ask_about(bright_spot(), "good")
    with site.start_ruled() as worker:
        worker.wait_until(lambda: site.finished(len(hostile) + 1), timeout_s=120)
        assert worker.popen.poll() is None
    assert {ended.state for ended in site.ended()} == {AiState.FAILED}
    assert all(expected.pop(ended.study_instance_uid) in ended.reason for ended in site.ended())
    assert expected == {}
    assert len(site.produced()) == 1


def test_sigterm_hands_the_job_back_and_the_next_worker_answers_it(site: Site) -> None:
    site.close_gate()
    site.ask_about(bright_spot(), "spot")
    with site.start_ruled() as worker:
        site.wait_until_asked(worker)
        assert worker.stop() == 0
    assert site.attempts() == [("queued", 0)]
    site.open_gate()
    with site.start_ruled() as worker:
        worker.wait_until(lambda: site.finished(1), timeout_s=120)
    assert site.attempts() == [("done", 1)]


def test_logs_of_a_study_carry_no_patient_identity(site: Site) -> None:
    site.ask_about(bright_spot(), "good", PatientName="Sekret^Name", PatientID="SEKRET-1")
    site.ask_about(bright_spot(), "bad", PatientName="Sekret^Name", Rows=4000, Columns=4000)
    with site.start_ruled() as worker:
        worker.wait_until(lambda: site.finished(2), timeout_s=120)
    [ended] = site.ended()
    assert ended.reason == "the file holds fewer pixels than its header says"
    assert "ekret" not in site.logs[-1].read_text().lower()


def test_an_answer_outside_the_grammar_ends_failed_with_the_reason(site: Site, tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "noise")
    study_uid = site.ask_about(bright_spot(), "spot")
    with site.start_real(tmp_path / "noise") as worker:
        worker.wait_until(lambda: site.finished(1), timeout_s=120)
        assert worker.stop() == 0
    [ended] = site.ended()
    assert (ended.study_instance_uid, ended.state) == (study_uid, AiState.FAILED)
    assert ended.reason.startswith("the model's answer could not be read: ")


def test_medmo_nano_answers_about_a_real_radiograph(site: Site) -> None:
    file = Path(str(get_testdata_file("RG1_J2KR.dcm")))
    image, study_uid = site.keep(file), read_header(file).study_instance_uid
    site.ask(image, study_uid)
    with site.start_real(default_checkpoint()) as worker:
        worker.wait_until(lambda: site.finished(1), timeout_s=120)
        assert worker.stop() == 0
    assert site.ended() == []
    [findings] = site.produced()
    assert findings.model.name == "MedMO-Nano"
    assert findings.model.simulation
    assert len(findings.model.digest) == 64
    assert findings.report.startswith("Findings:")
    assert [answer.question for answer in findings.answers] == ["Is there a nodule?"]
    for finding in findings.findings:
        left, top, right, bottom = finding.box
        assert 0 <= left < right <= image.columns
        assert 0 <= top < bottom <= image.rows
    asked = ask(site.data, study_uid, "Is the heart enlarged?")
    assert asked.text
    assert asked.image == image
    wait_until(lambda: site.attempts() == [("done", 1)], what="the job's end")
