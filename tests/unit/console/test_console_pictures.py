"""Frames for the viewer when a decoder hangs."""

import contextlib
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from hilum.adapters.dicom.decoding_child import DecodingChild
from hilum.adapters.folder import FolderInstances
from hilum.domain.errors import Reject, Retry
from hilum.testing.dicom_files import chest_image, write
from hilum_console.pictures import Pictures


class OneFolder(FolderInstances):
    """A store whose URIs are file names; `stuck` is a pipe that nobody writes to, so opening it hangs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def path(self, uri: str) -> Path:
        return self.folder / uri


def test_decoders_that_hang_cost_the_others_a_wait_and_not_their_threads(tmp_path: Path) -> None:
    write(tmp_path / "good", chest_image(np.zeros((8, 8), np.uint16)))
    os.mkfifo(tmp_path / "stuck")
    pictures = Pictures(OneFolder(tmp_path), wait_s=0.2)
    assert pictures.png("good", 1, longest_side=8).startswith(b"\x89PNG")
    hanging = [threading.Thread(target=_png, args=(pictures,), daemon=True) for _ in range(2)]
    for thread in hanging:
        thread.start()
    with pytest.raises(Retry, match="being decoded"):
        _until_all_decoders_hang(pictures)
    (tmp_path / "stuck").open("wb").close()
    for thread in hanging:
        thread.join(20)
    assert pictures.png("good", 1, longest_side=7).startswith(b"\x89PNG")
    pictures.close()


def test_a_decoder_that_hangs_is_replaced_and_the_image_shows_an_error(tmp_path: Path) -> None:
    write(tmp_path / "good", chest_image(np.zeros((8, 8), np.uint16)))
    os.mkfifo(tmp_path / "stuck")
    decoder = DecodingChild(patience_s=0.3)
    pictures = Pictures(OneFolder(tmp_path), decoders=[decoder])
    pictures.start()
    with pytest.raises(Retry, match="could not be decoded within"):
        pictures.png("stuck", 1, longest_side=8)
    decoder._patience_s = 60.0
    assert pictures.png("good", 1, longest_side=8).startswith(b"\x89PNG")
    pictures.close()
    assert decoder.pid == 0


def _until_all_decoders_hang(pictures: Pictures) -> None:
    for side in range(9, 2000):  # each size is decoded anew
        pictures.png("good", 1, longest_side=side)


def _png(pictures: Pictures) -> None:
    with contextlib.suppress(Reject, Retry):
        pictures.png("stuck", 1, longest_side=8)
