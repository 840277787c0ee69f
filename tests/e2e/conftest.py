"""The whole of Hilum as real processes, with MedMO-Nano itself."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess, run
from typing import Any

import pytest

from hilum.adapters.sql.database import database_path, open_database, reading
from hilum.adapters.sql.ledger import list_studies, show_study
from hilum.adapters.sql.ledger_values import StudyDetail
from hilum.testing.external import Process
from hilum_worker.medmo import default_checkpoint

HILUM = (sys.executable, "-m", "hilum_standalone")


@dataclass(frozen=True)
class Demo:
    """A finished `hilum up --demo --exit-when-done`."""

    data: Path
    exit_code: int
    output: str
    details: tuple[StudyDetail, ...]

    def hilum(self, *arguments: str | Path) -> CompletedProcess[str]:
        """Another command on the same data, as its own process."""
        command = [*HILUM, *(str(a) for a in arguments), "--data", str(self.data)]
        return run(command, capture_output=True, text=True, check=False, timeout=120)

    def receipts(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.data / "received" / kind / "receipts.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


def details_of(data: Path) -> tuple[StudyDetail, ...]:
    """Every study of a data folder in full."""
    engine = open_database(database_path(data))
    try:
        with reading(engine) as connection:
            found = (show_study(connection, row.study_uid) for row in list_studies(connection))
            return tuple(detail for detail in found if detail is not None)
    finally:
        engine.dispose()


def need_the_model() -> None:
    """`make setup` builds the ONNX of the checkpoint that the repository holds; without it there is nothing to test."""
    if not (default_checkpoint() / "model.safetensors").exists():
        pytest.fail(f"MedMO-Nano is not in {default_checkpoint()}")


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    need_the_model()
    folder = tmp_path_factory.mktemp("demo")
    command = [*HILUM, "up", "--demo", "--exit-when-done", "--dicom-port", "0", "--http-port", "0", "--data", folder]
    with Process([str(part) for part in command], log=folder / "output") as process:
        exit_code = process.popen.wait(480)
        output = process.log.read_text()
    return Demo(folder, exit_code, output, details_of(folder))


@dataclass
class Running:
    """A `hilum up` that stays up; the test kills what it likes."""

    data: Path
    dicom_port: int
    http_port: int
    config: Path
    process: Process

    def pid(self, service: str) -> int:
        entries = json.loads((self.data / "run" / "processes.json").read_text())
        pid: int = entries.get(service, {}).get("pid", 0)
        return pid

    def is_ready(self) -> bool:
        return "Page " in self.process.log.read_text()


Start = Callable[..., Any]


@pytest.fixture
def start() -> Start:
    """`with start(data, config, dicom_port, http_port) as running:` with everything ready."""

    @contextmanager
    def begin(data: Path, config: Path, dicom_port: int, http_port: int) -> Iterator[Running]:
        need_the_model()
        log = data.parent / f"up-{len(list(data.parent.glob('up-*')))}.log"
        ports = ("--dicom-port", str(dicom_port), "--http-port", str(http_port))
        with Process([*HILUM, "up", *ports, "--data", data, "--config", config], log=log) as process:
            running = Running(data, dicom_port, http_port, config, process)
            process.wait_until(running.is_ready, timeout_s=180)
            yield running

    return begin
