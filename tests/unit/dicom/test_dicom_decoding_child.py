"""Decoding in a child process: the same pixels, and what becomes of an image that takes too much or kills it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hilum.adapters.dicom.decoding_child import DecodingChild
from hilum.adapters.dicom.pixels import display_frame, model_frame, png_of
from hilum.domain.errors import Reject, Retry
from hilum.testing.dicom_files import chest_image, write
from hilum.testing.external import wait_until


@pytest.fixture
def child() -> Iterator[DecodingChild]:
    found = DecodingChild()
    yield found
    found.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(1).integers(0, 4096, (300, 200)).astype(np.uint16)
    return write(tmp_path / "image.dcm", chest_image(pixels))


def large(folder: Path) -> Path:
    """20 million pixels."""
    return write(folder / "large.dcm", chest_image(np.zeros((5000, 4000), np.uint16)))


def test_frames_and_pictures_are_the_same_as_without_a_child(child: DecodingChild, image: Path) -> None:
    here, there = model_frame(image, 1, longest_side=64), child.model_frame(image, 1, longest_side=64)
    assert np.array_equal(here.pixels, there.pixels)
    assert (here.rows, here.columns) == (there.rows, there.columns) == (300, 200)
    assert child.png(image, 1, longest_side=100) == png_of(display_frame(image, 1), longest_side=100)


def test_one_child_serves_many_images(child: DecodingChild, image: Path) -> None:
    child.start()
    pid = child.pid
    for side in (16, 32, 64):
        child.model_frame(image, 1, longest_side=side)
    assert child.pid == pid > 0


def test_what_is_wrong_with_an_image_is_said_as_without_a_child(child: DecodingChild, image: Path) -> None:
    with pytest.raises(Reject, match="has 1 frames, and frame 2"):
        child.model_frame(image, 2)
    with pytest.raises(FileNotFoundError):
        child.png(image.with_name("gone.dcm"), 1)
    assert child.png(image, 1).startswith(b"\x89PNG")


def test_an_image_that_takes_more_memory_than_it_may_is_rejected_and_the_next_is_decoded(
    image: Path, tmp_path: Path
) -> None:
    child = DecodingChild(memory_mb=60)
    with pytest.raises(Reject, match=r"MemoryError|more than 60 MB"):
        child.png(large(tmp_path), 1)
    assert child.model_frame(image, 1).rows == 300
    child.close()


def test_the_same_image_within_its_limits_is_decoded(child: DecodingChild, tmp_path: Path) -> None:
    assert child.model_frame(large(tmp_path), 1).rows == 5000


def test_a_decoder_that_hangs_is_ended_and_the_next_image_has_another(image: Path, tmp_path: Path) -> None:
    child = DecodingChild(patience_s=5.0)
    child.start()
    hanging = child.pid
    os.mkfifo(tmp_path / "stuck")  # whoever opens it waits for ever
    child._patience_s = 0.3
    with pytest.raises(Retry, match=r"within 0\.3 s"):
        child.model_frame(tmp_path / "stuck", 1)
    child._patience_s = 60.0
    assert child.model_frame(image, 1).rows == 300
    assert child.pid != hanging
    assert not Path(f"/proc/{hanging}").exists()
    child.close()


def test_an_image_that_kills_its_decoder_is_to_be_tried_again_and_the_next_has_another(
    child: DecodingChild, image: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "deadly")
    child.start()
    killer = threading.Timer(0.3, os.kill, (child.pid, signal.SIGSEGV))
    killer.start()
    with pytest.raises(Retry, match=r"ended without an answer \(SIGSEGV\)"):
        child.model_frame(tmp_path / "deadly", 1)
    assert child.model_frame(image, 1).rows == 300


def test_a_child_that_died_between_two_images_costs_neither(child: DecodingChild, image: Path) -> None:
    child.model_frame(image, 1)
    before = child.pid
    os.kill(before, signal.SIGKILL)
    time.sleep(0.05)
    assert child.model_frame(image, 1).rows == 300
    assert child.pid != before


def test_a_decoder_without_end_is_stopped_by_the_processor_time_that_it_may_take(image: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from hilum.adapters.dicom.decoding_child import _limit\n"
        "_limit(Path(sys.argv[1]), 4096, 1)\nwhile True: pass"
    )
    done = subprocess.run([sys.executable, "-c", code, str(image)], timeout=60, check=False)
    assert done.returncode == -signal.SIGXCPU


def test_a_child_leaves_when_its_parent_is_killed_even_while_it_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "stuck")
    code = (
        "import sys, threading, time; from pathlib import Path\n"
        "from hilum.adapters.dicom.decoding_child import DecodingChild\n"
        "child = DecodingChild(); child.start()\n"
        "threading.Thread(target=child.png, args=(Path(sys.argv[1]), 1), daemon=True).start()\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, tmp_path / "stuck"], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), timeout_s=20, what="the child's end")
