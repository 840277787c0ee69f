"""A data folder with a spool, a journal and a migrated index in each kind of database; and STOW-RS into it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from sqlalchemy import Engine

from hilum.testing.clock import SetClock
from hilum.testing.dicom_files import write
from hilum_listener.settings import Places
from hilum_listener.testing import START, Listener
from hilum_listener.testing_stow import IMAGE, Door


@pytest.fixture
def listener(tmp_path: Path, engine: Engine) -> Listener:
    return Listener(Places(tmp_path), engine, SetClock(START))


@pytest.fixture
def door(listener: Listener) -> Iterator[Door]:
    with ThreadPoolExecutor(4) as pool:
        yield Door(listener, pool)


@pytest.fixture
def part10(tmp_path: Path) -> Any:
    def encoded(dataset: Dataset = IMAGE, *, syntax: str = "1.2.840.10008.1.2.1") -> bytes:
        return write(tmp_path / "part10.dcm", dataset, syntax=syntax).read_bytes()

    return encoded
