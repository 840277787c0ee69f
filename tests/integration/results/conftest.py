"""A data folder for the results service, and receivers that answer as told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hilum.testing.receivers import Receiver, http_receivers, mllp_receivers
from hilum_results.testing import ResultsSite


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ResultsSite]:
    found = ResultsSite(tmp_path)
    yield found
    found.engine.dispose()


@pytest.fixture
def http_receiver() -> Iterator[Receiver]:
    with http_receivers() as start:
        yield start


@pytest.fixture
def mllp_receiver() -> Iterator[Receiver]:
    with mllp_receivers() as start:
        yield start
