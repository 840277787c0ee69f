"""A data folder with a filled database, and a runner of the `hilum` command."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from hilum.adapters.sql.database import database_path, open_database, transaction
from hilum.adapters.sql.schema import migrate
from hilum.domain.inference import Lane
from hilum.domain.results import AiState, DeliveryState, Format
from hilum.domain.study import OrderPriority
from hilum.testing.seeding import Said, SeededStudy
from hilum_standalone.__main__ import main

Hilum = Callable[..., Result]
CONTENTS = {Format.SR: b"DICM", Format.FHIR: b"{}", Format.ORU: b"MSH|"}


@pytest.fixture
def hilum() -> Hilum:
    """`hilum("show", uid, "--data", folder)` in this process."""

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(main, [str(a) for a in arguments])

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two studies: `found` with an urgent pneumothorax that was delivered, `ct` that is not applicable."""
    folder = tmp_path / "data"
    folder.mkdir()
    engine = open_database(database_path(folder))
    migrate(engine)
    now = datetime.now(UTC)
    with transaction(engine) as connection:
        found = SeededStudy(connection, "found", start=now - timedelta(minutes=1), priority=OrderPriority.ROUTINE)
        found.image(np.zeros((100, 80), np.uint16))
        found.complete()
        found.route(Lane.ROUTINE)
        found.job("done")
        key = found.result([Said("Pneumothorax", (1, 2, 30, 40), 0.95)], bytes_of=CONTENTS, report="A pneumothorax.")
        found.deliver(key, "pacs", Format.SR, DeliveryState.ACCEPTED, tries=[("accepted", "0x0000 success")])
        ct = SeededStudy(connection, "ct", start=now - timedelta(minutes=5), priority=OrderPriority.ROUTINE)
        ct.image(np.zeros((10, 10), np.uint16))
        ct.complete()
        ct.route(None, reason="modality CT is not CR/DX")
        ct.end(AiState.NOT_APPLICABLE, "modality CT is not CR/DX")
    engine.dispose()
    (folder / "uids").write_text(f"{found.uid} {ct.uid}")
    return folder


@pytest.fixture
def uids(data: Path) -> tuple[str, str]:
    """The UIDs of `found` and `ct`."""
    found, ct = (data / "uids").read_text().split()
    return found, ct
