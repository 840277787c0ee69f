"""Fixtures for suites that meet Kafka."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hilum.testing.kafka import Kafka, kafka


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """One broker for the session. A test that stops or kills one starts its own (`kafka_alone`)."""
    with kafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def kafka_alone(tmp_path: Path) -> Iterator[Kafka]:
    """A broker of the test's own, to be killed."""
    with kafka(tmp_path / "kafka") as broker:
        yield broker
