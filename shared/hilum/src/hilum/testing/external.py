"""Real programs for tests: found, or the test says what to install; started on a free port, stopped by pid."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import pytest


def missing(what: str, install: str) -> NoReturn:
    """Fails the test in CI; elsewhere skips it and says what to install."""
    message = f"{what} is not installed; install it with: {install}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def need(program: str, *, install: str) -> str:
    """The path of a program from Debian's package `install`."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        missing(program, f"apt-get install {install}")
    return path


def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """True when something accepts connections on the port."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, port)) == 0


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 20.0, what: str = "the condition") -> None:
    """Looks every 20 ms until the condition holds; fails with its name after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {timeout_s:g} s")
        time.sleep(0.02)


class Process:
    """A started program: output in a file, ended by its process group when the block ends."""

    def __init__(
        self, command: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                [str(part) for part in command],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def wait_until(self, ready: Callable[[], bool], *, timeout_s: float = 30.0) -> Self:
        """Waits for readiness; fails at once, with the end of its output, when the process ends before."""

        def look() -> bool:
            if self.popen.poll() is not None:
                raise AssertionError(f"ended with {self.popen.returncode} before it was ready:\n{self.tail()}")
            return ready()

        wait_until(look, timeout_s=timeout_s, what=f"readiness of {self.popen.args!r}")
        return self

    def tail(self, characters: int = 4000) -> str:
        return self.log.read_text(errors="replace")[-characters:]

    def kill(self) -> None:
        """SIGKILL to the process alone, as a crash would end it."""
        self.popen.kill()
        self.popen.wait()

    def stop(self, *, timeout_s: float = 15.0) -> int:
        """SIGTERM, then SIGKILL to what is left of its group; the exit code."""
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.popen.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        return self.popen.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Server:
    """A server that tests start, kill, pause and start again on the same port and folder; a subclass has `start`."""

    what = "server"
    """As in "the Redis server is not running"."""
    _process: Process | None = None

    @property
    def process(self) -> Process:
        """The running one."""
        if self._process is None:
            raise AssertionError(f"the {self.what} is not running")
        return self._process

    def kill(self) -> None:
        """SIGKILL, as a crash would end it."""
        self.process.kill()
        self._process = None

    def pause(self) -> None:
        """Connections stay open and nothing answers."""
        self.process.popen.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.popen.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ends it if it runs, paused or not."""
        if self._process is not None:
            self.go_on()
            self._process.stop()
            self._process = None
