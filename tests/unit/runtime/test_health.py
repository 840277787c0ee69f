"""What a process waits for stands in a file that a probe reads."""

import os
import threading
import time
from pathlib import Path

import pytest

from hilum.domain.errors import Busy
from hilum.runtime.health import Health, main, read
from hilum.testing.external import wait_until


@pytest.fixture
def stop() -> "threading.Event":
    return threading.Event()


def test_what_is_away_is_named_with_its_reason_until_it_is_back(tmp_path: Path, stop: threading.Event) -> None:
    away = threading.Event()
    away.set()

    def database() -> None:
        if away.is_set():
            raise Busy("the database is away")

    Health(tmp_path, "worker", {"database": database, "kafka": lambda: None}, every_s=0.02).start(stop)
    wait_until(lambda: read(tmp_path, "worker").waits_for == {"database": "the database is away"})
    assert main([str(tmp_path), "worker"]) == 0
    assert main([str(tmp_path), "worker", "--ready"]) == 1
    away.clear()
    wait_until(lambda: read(tmp_path, "worker").waits_for == {})
    assert main([str(tmp_path), "worker", "--ready"]) == 0
    stop.set()


def test_a_check_that_hangs_is_said_and_holds_up_nothing(tmp_path: Path, stop: threading.Event) -> None:
    def kafka() -> None:
        stop.wait(60)

    Health(tmp_path, "worker", {"kafka": kafka}, every_s=0.02, hangs_s=0.1).start(stop)
    wait_until(lambda: "doesn't answer" in read(tmp_path, "worker").waits_for.get("kafka", ""))
    stop.set()


def test_a_library_s_own_error_is_named_by_its_type_alone(tmp_path: Path, stop: threading.Event) -> None:
    def redis() -> None:
        raise OSError("redis://user:secret@host")

    Health(tmp_path, "sweep", {"redis": redis}, every_s=0.02).start(stop)
    wait_until(lambda: read(tmp_path, "sweep").waits_for == {"redis": "OSError"})
    stop.set()


def test_a_process_that_writes_no_more_is_not_alive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "scp"]) == 2
    path = tmp_path / "run" / "scp.health"
    path.parent.mkdir()
    path.write_text('{"pid": 1, "waits_for": {}}')
    assert main([str(tmp_path), "scp"]) == 0
    old = time.time() - 60
    os.utime(path, (old, old))
    assert main([str(tmp_path), "scp"]) == 2
    assert "no sign of life" in capsys.readouterr().out
