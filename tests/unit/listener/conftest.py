"""A data folder with a spool, a journal and a migrated index."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hilum.adapters.sql.database import open_database
from hilum.adapters.sql.schema import migrate
from hilum.testing.clock import SetClock
from hilum_listener.settings import Places
from hilum_listener.testing import START, Listener


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    engine = open_database(tmp_path / "hilum.db")
    migrate(engine)
    yield Listener(Places(tmp_path), engine, SetClock(START))
    engine.dispose()
