"""A disk that is full, read-only or limited, and a database that is away: what the sender is told, and what is left."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from sys import executable

import numpy as np
import pytest
import sqlalchemy as sa

from hilum.adapters.sql.database import database_path, open_database, reading
from hilum.adapters.sql.eventlog import SqlPublisher
from hilum.adapters.sql.schema import migrate
from hilum.adapters.sql.tables import instances
from hilum.ports.clock import SystemClock
from hilum.testing.dicom_files import chest_image, write
from hilum.testing.external import Process, need
from hilum_listener.handlers.assemble import Assembler
from hilum_listener.settings import AssembleSettings, Places
from hilum_listener.testing import EXPLICIT, QUIET, encoded_dataset, stored_files, unfinished_files
from hilum_listener.testing_scp import Running, associate, small_image, start_scp

pytestmark = pytest.mark.timeout(300)
NO_WATERMARK = "[listener]\nmin_free_mb = 0\n"
OUT_OF_RESOURCES = 0xA700


def image(folder: Path, name: str, *, side: int = 512) -> Path:
    """Half a megabyte unless `side` says otherwise."""
    pixels = np.arange(side * side, dtype=np.uint32).astype(np.uint16).reshape(side, side)
    return write(folder / f"{name}.dcm", chest_image(pixels, study="disk", name=name))


def store(port: int, path: Path) -> int:
    association = associate(port, sop_class=str(small_image("x").SOPClassUID), syntax=EXPLICIT)
    status = int(association.send_c_store(str(path)).Status)
    association.release()
    return status


def check(running: Running, acknowledged: list[Path]) -> None:
    """What was acknowledged is whole, everything in the spool was acknowledged, and nothing is half-written."""
    spool = running.data / "spool"
    assert list((spool / "incoming").iterdir()) == unfinished_files(spool) == []
    kept = sorted(encoded_dataset(path) for path in stored_files(spool))
    assert kept == sorted(encoded_dataset(path) for path in acknowledged)
    assert len(running.received()) == len(acknowledged)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system; the limit on file sizes is tested for everyone")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = need("mount", install="mount")
    made = subprocess.run([mount, "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], check=False)
    if made.returncode:
        pytest.skip("this machine mounts nothing")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def test_a_full_disk_is_answered_out_of_resources_and_the_sender_can_try_again(disk: Path, tmp_path: Path) -> None:
    running = start_scp(disk / "data", config=NO_WATERMARK)
    with running.process:
        acknowledged: list[Path] = []
        for number in range(12):
            path = image(tmp_path, f"full-{number}")
            status = store(running.port, path)
            if status == OUT_OF_RESOURCES:
                break
            assert status == 0x0000
            acknowledged.append(path)
        assert 2 <= len(acknowledged) < 12
        check(running, acknowledged)
        assert store(running.port, path) == OUT_OF_RESOURCES, "still, and without harm"
        check(running, acknowledged)
        remount(disk, "size=9m")
        assert store(running.port, path) == 0x0000
        check(running, [*acknowledged, path])


def test_a_read_only_disk_is_answered_out_of_resources_and_the_sender_can_try_again(disk: Path, tmp_path: Path) -> None:
    remount(disk, "size=9m")
    running, spool = start_scp(disk / "data", config=NO_WATERMARK), disk / "data" / "spool"
    first = image(tmp_path, "first", side=8)
    with running.process:
        assert store(running.port, first) == 0x0000
        # a read-only view over the folder: the file system itself stays writable while the journal is open
        subprocess.run(["mount", "--bind", str(spool), str(spool)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(spool)], check=True)
        taken = [first]  # into files that were opened before
        try:
            for number in range(100):
                path = image(tmp_path, f"later-{number}", side=8)
                status = store(running.port, path)
                if status == OUT_OF_RESOURCES:
                    break
                assert status == 0x0000
                taken.append(path)
            assert len(taken) < 100
            check(running, taken)
        finally:
            subprocess.run(["umount", str(spool)], check=True)
        assert store(running.port, path) == 0x0000
        check(running, [*taken, path])


def test_a_limit_that_is_met_in_the_middle_of_a_file_leaves_nothing_of_it(tmp_path: Path) -> None:
    data, limited = tmp_path / "data", need("prlimit", install="util-linux")
    data.mkdir()
    (data / "hilum.toml").write_text(NO_WATERMARK)
    scp = [executable, "-m", "hilum_listener", "scp", "--data", data, "--port", "0", "--config", data / "hilum.toml"]
    port_file, command = data / "run" / "scp.port", [limited, "--fsize=200000", *scp]
    process = Process([str(part) for part in command], log=tmp_path / "scp.log")
    with process.wait_until(port_file.exists, timeout_s=120):
        running = Running(process, data, int(port_file.read_text()))
        small, large = image(tmp_path, "small", side=64), image(tmp_path, "large")
        assert store(running.port, large) == OUT_OF_RESOURCES
        assert store(running.port, small) == 0x0000
        assert store(running.port, large) == OUT_OF_RESOURCES
        check(running, [small])


def test_without_a_database_images_are_taken_until_the_watermark_and_indexed_when_it_is_back(tmp_path: Path) -> None:
    data, sent = tmp_path / "data", tmp_path / "sent"
    sent.mkdir()
    data.mkdir()
    database_path(data).write_bytes(b"this is no database" * 100)
    running = start_scp(data, config=NO_WATERMARK)
    with running.process:
        taken = [image(sent, f"taken-{n}", side=64) for n in range(3)]
        assert [store(running.port, path) for path in taken] == [0x0000] * 3
    running = start_scp(data, config="[listener]\nmin_free_mb = 999999999\n")
    with running.process:
        assert store(running.port, image(sent, "refused", side=64)) == OUT_OF_RESOURCES
        check(running, taken)
    database_path(data).unlink()
    engine = open_database(database_path(data))
    migrate(engine)
    clock = SystemClock()
    Assembler(Places(data), AssembleSettings(quiet_time=QUIET), engine, SqlPublisher(clock), clock).step()
    with reading(engine) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(instances)).scalar_one() == 3
