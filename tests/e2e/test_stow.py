"""A sender that speaks DICOMweb only: from its POST to the result, on `hilum up` as a site runs it."""

import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread

from hilum.domain.results import AiState
from hilum.testing.external import free_port, wait_until
from hilum_listener.testing_stow import body_of, post
from hilum_modelops.generator import render
from hilum_standalone.samples import Image, Order, write

from .conftest import Start, details_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STUDY = "1.2.826.0.1.3680043.9.77"


def test_a_study_posted_to_stow_rs_gets_its_result_and_posted_again_changes_nothing(
    start: Start, tmp_path: Path
) -> None:
    order = Order(STUDY, "Web^Test", "W1", "19700101", "F", "W1", "Chest", datetime(2026, 11, 24, 8, 0, tzinfo=UTC))
    pixels = render(9104, rows=512, cols=512).pixels
    files = [write(tmp_path / f"{n}.dcm", Image(pixels, "CR", number=n), order) for n in (1, 2)]
    data, config, port = tmp_path / "data", tmp_path / "hilum.toml", free_port()
    config.write_text(f"[listener]\nquiet_time_s = 1.5\n[listener.stow]\nport = {port}\n")
    with start(data, config, free_port(), free_port()) as running:
        assert f"STOW   http://127.0.0.1:{port}/studies" in running.process.log.read_text()
        DICOMwebClient(f"http://127.0.0.1:{port}").store_instances([dcmread(files[0])])
        assert post(port, body_of([files[1].read_bytes()]), path=f"/studies/{STUDY}").status == 200
        wait_until(lambda: [type(d.state) for d in details_of(data)] == [AiState], timeout_s=120, what="a result")
        (detail,) = details_of(data)
        assert detail.state in (AiState.POSITIVE, AiState.NEGATIVE), detail.row.reason
        assert (len(detail.images), detail.calling_ae) == (2, "STOW-RS")

        pid = running.pid("stow")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: running.pid("stow") not in (0, pid), timeout_s=30, what="a new stow process")
        wait_until(lambda: (data / "run" / "stow.port").exists(), what="its port")
        wait_until(lambda: _answers(port, [file.read_bytes() for file in files]) == 200, timeout_s=30, what="an answer")
        other = write(tmp_path / "3.dcm", Image(pixels, "CR", number=3), order)
        assert post(port, body_of([other.read_bytes()])).status == 200
        wait_until(lambda: len(details_of(data)[0].images) == 3, timeout_s=60, what="the late image")
    (detail,) = details_of(data)
    assert {revision.instance_count for revision in detail.revisions} <= {2, 3}, "what came again made no revision"


def _answers(port: int, files: list[bytes]) -> int:
    try:
        return post(port, body_of(files)).status
    except OSError:
        return 0
