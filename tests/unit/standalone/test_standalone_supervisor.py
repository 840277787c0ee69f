"""The supervisor, with small programs of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hilum.testing.external import Process, wait_until
from hilum_standalone.folder import is_alive, is_running, locked, processes
from hilum_standalone.supervisor import Program, Supervisor

SLEEP = ("-c", "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); time.sleep(60)")
STUBBORN = ("-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)")


def folder(tmp_path: Path) -> Path:
    for part in ("run", "logs"):
        (tmp_path / part).mkdir(exist_ok=True)
    return tmp_path


def pid_of(data: Path, name: str) -> int:
    return processes(data).get(name, {}).get("pid", 0)


def restarted(supervisor: Supervisor, name: str, data: Path) -> bool:
    supervisor.tick()
    return processes(data).get(name, {}).get("restarts") == 1


def test_a_killed_service_starts_again_and_the_operator_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    with locked(folder(tmp_path)) as lock:
        supervisor = Supervisor([Program("one", SLEEP)], data=tmp_path, say=said.append, inherit=lock)
        supervisor.start()
        try:
            first = pid_of(tmp_path, "one")
            os.kill(first, signal.SIGKILL)

            def again() -> bool:
                supervisor.tick()
                return pid_of(tmp_path, "one") not in (0, first)

            wait_until(again, what="the second start")
            assert processes(tmp_path)["one"]["restarts"] == 1
            assert said == [f"one was killed by SIGKILL; it starts again in 0.5 s (log: {tmp_path}/logs/one.log)"]
        finally:
            supervisor.stop()
    assert not is_alive(str(pid_of(tmp_path, "one")))


def test_a_service_that_never_runs_is_hopeless_after_three_starts(tmp_path: Path) -> None:
    said: list[str] = []
    with locked(folder(tmp_path)) as lock:
        program = Program("bad", ("-c", "import sys; sys.exit('no model')"), lambda _pid: False)
        supervisor = Supervisor([program], data=tmp_path, say=said.append, inherit=lock)
        supervisor.start()

        def look() -> bool:
            supervisor.tick()
            return supervisor.hopeless() == "bad"

        wait_until(look, what="three starts")
        assert supervisor.waiting_for() == ("bad",)
        assert [line.split(" (log")[0] for line in said] == [
            "bad ended with exit code 1; it starts again in 0.5 s",
            "bad ended with exit code 1; it starts again in 1 s",
            "bad ended with exit code 1; it starts again in 2 s",
        ]
        assert (tmp_path / "logs" / "bad.log").read_text().count("no model") == 3


def test_stopping_goes_in_order_and_kills_what_does_not_stop(tmp_path: Path) -> None:
    said: list[str] = []
    with locked(folder(tmp_path)) as lock:
        programs = [Program("front", SLEEP), Program("stubborn", STUBBORN), Program("back", SLEEP)]
        supervisor = Supervisor(programs, data=tmp_path, say=said.append, inherit=lock)
        supervisor.start()
        pids = [pid_of(tmp_path, p.name) for p in programs]
        time.sleep(0.5)  # the programs install their handlers
        started = time.monotonic()
        supervisor.stop(timeout_s=2)
        assert time.monotonic() - started < 4
    assert said == ["stubborn did not stop in time and was killed"]
    assert not any(is_alive(str(pid)) for pid in pids)


def test_a_log_that_grows_is_turned_over_while_its_writer_goes_on(tmp_path: Path) -> None:
    writer = "import sys, time\nwhile True:\n    sys.stderr.write('x' * 999_999 + '\\n'); time.sleep(0.02)"
    with locked(folder(tmp_path)) as lock:
        supervisor = Supervisor([Program("loud", ("-c", writer))], data=tmp_path, say=print, inherit=lock)
        supervisor.start()
        try:

            def turned() -> bool:
                supervisor.tick()
                return (tmp_path / "logs" / "loud.log.2").exists()

            wait_until(turned, what="a second turn")
        finally:
            supervisor.stop()
    assert (tmp_path / "logs" / "loud.log").stat().st_size < 12_000_000
    assert (tmp_path / "logs" / "loud.log.1").read_bytes()[:1] == b"x"


def test_services_end_with_a_supervisor_that_is_killed_and_hold_the_folder_until_then(tmp_path: Path) -> None:
    script = tmp_path / "up.py"
    script.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from hilum_standalone.folder import locked\n"
        "from hilum_standalone.supervisor import Program, Supervisor\n"
        "data = Path(sys.argv[1])\n"
        "with locked(data) as lock:\n"
        f"    s = Supervisor([Program('one', {SLEEP!r})], data=data, say=print, inherit=lock)\n"
        "    s.start()\n"
        "    time.sleep(60)\n"
    )
    data = folder(tmp_path)
    with Process([sys.executable, script, data], log=tmp_path / "log") as up:
        up.wait_until(lambda: pid_of(data, "one") > 0)
        child = pid_of(data, "one")
        assert is_running(data)
        up.kill()
        wait_until(lambda: not is_alive(str(child)), timeout_s=5, what="the end of the service")
    wait_until(lambda: not is_running(data), what="a free folder")
    assert json.loads((data / "run" / "processes.json").read_text())["one"]["pid"] == child


def test_on_a_full_disk_supervision_goes_on_and_says_so_once(tmp_path: Path) -> None:
    """A limit of no byte for each file stands for the full disk: every write to a file fails in the same place."""
    script = tmp_path / "up.py"
    script.write_text(
        "import os, resource, signal, sys, time\n"
        "from pathlib import Path\n"
        "from hilum_standalone.folder import locked\n"
        "from hilum_standalone.supervisor import Program, Supervisor\n"
        "data = Path(sys.argv[1])\n"
        "with locked(data) as lock:\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"
        f"    s = Supervisor([Program('one', {SLEEP!r})], data=data, say=lambda line: print(line, flush=True), "
        "inherit=lock)\n"
        "    s.start()\n"
        "    os.kill(s._children[0].popen.pid, signal.SIGKILL)\n"
        "    deadline = time.monotonic() + 20\n"
        "    while s._children[0].restarts < 1 and time.monotonic() < deadline:\n"
        "        s.tick(); time.sleep(0.02)\n"
        "    print('serves' if not s.waiting_for() else 'down', flush=True)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "    s._note_due_at = 0.0\n"
        "    s.tick()\n"
        "    s.stop()\n"
    )
    data = folder(tmp_path)
    done = subprocess.run([sys.executable, script, data], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split(";")[0] for line in done.stdout.splitlines()] == ["one was killed by SIGKILL", "serves"]
    assert done.stderr.splitlines() == [f"{data}/run/processes.json can't be written: File too large"]
    assert processes(data)["one"]["restarts"] == 1  # written once there was room again
    assert [path.name for path in (data / "run").iterdir() if path.name.startswith(".")] == []


def test_a_log_that_can_not_be_opened_leaves_the_service_running_and_its_words_on_standard_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder(tmp_path) / "logs" / "loud.log").mkdir()
    program = Program("loud", ("-c", "import sys, time; print('no disk', file=sys.stderr, flush=True); time.sleep(60)"))
    said: list[str] = []
    with locked(tmp_path) as lock:
        supervisor = Supervisor([program], data=tmp_path, say=said.append, inherit=lock)
        supervisor.start()
        errors = ""
        try:

            def spoke() -> bool:
                nonlocal errors
                supervisor.tick()
                errors += capfd.readouterr().err
                return "no disk" in errors

            wait_until(spoke, what="the service's words")
            os.kill(pid_of(tmp_path, "loud"), signal.SIGKILL)
            wait_until(lambda: restarted(supervisor, "loud", tmp_path), what="the second start")
        finally:
            supervisor.stop()
    errors += capfd.readouterr().err
    assert errors.count("loud's log can't be opened, so it writes here: Is a directory") == 1


def test_who_can_not_be_told_stops_nothing(tmp_path: Path) -> None:
    def full(_line: str) -> None:
        raise OSError(28, "No space left on device")

    with locked(folder(tmp_path)) as lock:
        supervisor = Supervisor([Program("one", SLEEP)], data=tmp_path, say=full, inherit=lock)
        supervisor.start()
        try:
            os.kill(pid_of(tmp_path, "one"), signal.SIGKILL)
            wait_until(lambda: restarted(supervisor, "one", tmp_path), what="the second start")
        finally:
            supervisor.stop()
