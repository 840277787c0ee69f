"""All three roles as processes: from a sender to a route, also when assembly is killed on the way."""

import random
import subprocess
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from sys import executable
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.sql.database import database_path, open_database, reading
from hilum.adapters.sql.schema import migrate
from hilum.adapters.sql.tables import events, instances, quarantine, revisions, routes, studies
from hilum.testing.dicom_files import chest_image, write
from hilum.testing.external import Process, need, wait_until

CONFIG = "[listener]\nquiet_time_s = 1.5\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "hilum.toml").write_text(CONFIG)
    engine = open_database(database_path(tmp_path))
    migrate(engine)
    engine.dispose()
    return tmp_path


def roles(data: Path, *names: str) -> Process:
    command: list[str | Path] = [
        executable,
        "-m",
        "hilum_listener",
        *names,
        "--data",
        data,
        "--config",
        data / "hilum.toml",
        "--port",
        "0",
    ]
    return Process(command, log=data / "roles.log")


def is_assembling(data: Path) -> bool:
    return '"assembling"' in (data / "roles.log").read_text()


def receiver(data: Path) -> tuple[Process, int]:
    port_file = data / "run" / "scp.port"
    process = roles(data, "scp").wait_until(port_file.exists, timeout_s=60)
    return process, int(port_file.read_text())


def send(port: int, paths: Sequence[Path]) -> None:
    program = need("dcmsend", install="dcmtk")
    command = [program, "-aec", "HILUM", "127.0.0.1", str(port), *[str(path) for path in paths]]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-500:]


def images(folder: Path, study: str, names: Sequence[str], **attributes: Any) -> list[Path]:
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    return [
        write(folder / f"{study}-{name}.dcm", chest_image(pixels, study=study, name=name, **attributes))
        for name in names
    ]


def rows(engine: Engine, table: sa.Table) -> list[Any]:
    with reading(engine) as connection:
        return list(connection.execute(sa.select(table)))


def test_a_study_sent_by_dcmsend_is_indexed_completed_and_routed(data: Path) -> None:
    engine = open_database(database_path(data))
    process, port = receiver(data)
    with process, roles(data, "assemble", "route").wait_until(lambda: is_assembling(data), timeout_s=90):
        send(port, images(data, "chest", ["pa", "ap"]) + images(data, "ct", ["slice"], Modality="CT"))
        wait_until(lambda: len(rows(engine, routes)) == 2, timeout_s=90, what="two routes")
    chest, ct = sorted(rows(engine, routes), key=lambda row: row.lane is None)
    assert (chest.lane, chest.reason) == ("routine", "rule 'chest radiograph' takes 2 images")
    assert ct.reason.startswith("modality CT is not CR/DX")
    assert sorted(row.topic for row in rows(engine, events)) == [
        "inference.routine",
        "study.ended",
        "study.ready",
        "study.ready",
    ]
    for row in rows(engine, revisions):
        assert timedelta(seconds=1.5) <= row.completed_at - row.last_received_at < timedelta(seconds=5)
    engine.dispose()


@pytest.mark.slow
def test_assembly_that_is_killed_again_and_again_folds_each_image_once(data: Path) -> None:
    engine = open_database(database_path(data))
    process, port = receiver(data)
    dice = random.Random(20261124)
    names = [f"{number:03}" for number in range(40)]
    with process:
        for turn in range(6):
            with roles(data, "assemble", "route") as assembly:
                send(port, images(data, f"s{turn}", names))
                time.sleep(dice.uniform(0.0, 3.0))
                assembly.kill()
        with roles(data, "assemble", "route"):
            wait_until(lambda: len(_settled(engine)) == 6, timeout_s=90, what="six routed studies")
    assert len(rows(engine, instances)) == 6 * len(names)
    assert rows(engine, quarantine) == []
    ready = [row for row in rows(engine, events) if row.topic == "study.ready"]
    assert len(ready) == len(rows(engine, revisions)) == len(rows(engine, routes))
    asked = [row for row in rows(engine, events) if row.topic.startswith("inference.")]
    assert len(asked) == len(ready)
    newest = {row.study_instance_uid: row.instance_count for row in sorted(rows(engine, revisions), key=_revision)}
    assert set(newest.values()) == {len(names)}
    engine.dispose()


def _settled(engine: Engine) -> list[Any]:
    done = {(row.study_instance_uid, row.revision) for row in rows(engine, routes)}
    return [
        row for row in rows(engine, studies) if not row.receiving and (row.study_instance_uid, row.revision) in done
    ]


def _revision(row: Any) -> int:
    return int(row.revision)
