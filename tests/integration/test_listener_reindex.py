"""A data folder that loses its database after its journals were removed: the real processes and `hilum reindex`."""

import json
import os
import subprocess
import time
from pathlib import Path
from sys import executable

import pytest
import sqlalchemy as sa
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID
from pynetdicom.association import Association

from hilum.adapters.dicom.requests import hold_reactor
from hilum.adapters.sql.database import database_path, open_database, reading
from hilum.adapters.sql.schema import migrate
from hilum.adapters.sql.tables import instances, quarantine, studies
from hilum.testing.external import Process, wait_until
from hilum_listener.testing import EXPLICIT, stored_files
from hilum_listener.testing_scp import associate, small_image, start_scp

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # a sweep goes through the spool little by little
NAMES = ("one", "two", "three")


def new_database(data: Path) -> None:
    engine = open_database(database_path(data))
    migrate(engine)
    engine.dispose()


def rows(data: Path, column: "sa.Column[str]") -> list[str]:
    engine = open_database(database_path(data))
    try:
        with reading(engine) as connection:
            return list(connection.execute(sa.select(column)).scalars())
    finally:
        engine.dispose()


def assembling(data: Path) -> Process:
    command: list[str | Path] = [executable, "-m", "hilum_listener", "assemble", "--data", data]
    return Process(command, log=data / "assemble.log")


def reindex(data: Path) -> dict[str, int]:
    command = [executable, "-m", "hilum_standalone", "reindex", "--data", str(data), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def store(association: Association, name: str) -> None:
    image = small_image(name)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = UID(EXPLICIT)
    hold_reactor(association)
    assert association.send_c_store(image).Status == 0x0000


def test_everything_comes_back_once_and_nothing_that_was_acknowledged_is_swept_away(tmp_path: Path) -> None:
    data = tmp_path / "data"
    running = start_scp(data)
    new_database(data)
    with running.process, assembling(data):
        association = associate(running.port, sop_class=str(small_image("one").SOPClassUID), syntax=EXPLICIT)
        for name in NAMES:
            store(association, name)
        association.release()
        wait_until(lambda: len(rows(data, instances.c.uri)) == 3, timeout_s=60, what="the index")
    files = stored_files(data / "spool")
    _ten_days_later(data, files)
    for path in data.glob("hilum.db*"):
        path.unlink()
    new_database(data)
    running = start_scp(data)
    with running.process, assembling(data):
        wait_until(lambda: not _dead_runs(data), timeout_s=90, what="the sweep's end")
        assert stored_files(data / "spool") == files
        assert rows(data, instances.c.uri) == []
        found = reindex(data)
        assert (found["journaled"], found["known"]) == (3, 0)
        wait_until(lambda: len(rows(data, instances.c.uri)) == 3, timeout_s=60, what="the index")
        assert reindex(data) | {"files": 3} == found | {"journaled": 0, "known": 3}
    assert sorted(rows(data, instances.c.sop_instance_uid)) == sorted(small_image(n).SOPInstanceUID for n in NAMES)
    assert rows(data, quarantine.c.uri) == []
    assert rows(data, studies.c.calling_ae) == ["hilum reindex"]


def _ten_days_later(data: Path, files: list[Path]) -> None:
    """As if everything had come ten days ago and the journals had been removed since."""
    then = time.time() - 10 * 86_400
    for path in files:
        os.utime(path, (then, then))
    for path in (data / "spool" / "journal").glob("*.jsonl"):
        path.unlink()
    os.utime(data / "spool" / "journal" / "since", (then + 86_400, then + 86_400))


def _dead_runs(data: Path) -> bool:
    """Whether there are runs beside the one of the receiver that runs."""
    return len(list((data / "spool" / "runs").iterdir())) > 1
