"""The worker's decoder is a process of its own: an image that kills it costs its study, and nothing else."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # no stubs
import pytest

from hilum.adapters.dicom.header import read_header
from hilum.domain.results import AiState
from hilum.testing.dicom_files import chest_image, write
from hilum_worker.testing_site import WorkerSite, bright_spot

DRIVER = Path(__file__).with_name("worker_with_a_rule.py")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[WorkerSite]:
    found = WorkerSite(tmp_path)
    yield found
    found.engine.dispose()


def test_an_image_that_kills_its_decoder_ends_its_study_and_the_worker_answers_the_next(
    site: WorkerSite, tmp_path: Path
) -> None:
    file = write(site.data / "deadly.dcm", chest_image(bright_spot(), study="deadly"))
    image, study_uid = site.keep(file), read_header(file).study_instance_uid
    stored = site.data / "spool" / image.uri.removeprefix("spool:")
    stored.unlink()
    os.mkfifo(stored)  # the decoder waits in it until it is killed
    site.ask(image, study_uid)
    with site.process([sys.executable, DRIVER, site.data, tmp_path, "1", "900"]) as worker:
        worker.wait_until(lambda: "job claimed" in site.logs[-1].read_text(), timeout_s=60)
        (decoder,) = psutil.Process(worker.pid).children()
        decoder.send_signal(signal.SIGSEGV)
        worker.wait_until(lambda: site.finished(1), timeout_s=60)
        site.ask_about(bright_spot(), "good")
        worker.wait_until(lambda: site.finished(2), timeout_s=60)
        assert worker.popen.poll() is None
    [ended] = site.ended()
    assert (ended.study_instance_uid, ended.state) == (study_uid, AiState.FAILED)
    assert ended.reason == "given up after 1 attempts: the image's decoder ended without an answer (SIGSEGV)"
    assert len(site.produced()) == 1
