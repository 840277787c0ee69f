"""For tests: the receiving process, killed with SIGKILL before the n-th of its system calls.

Forked from a process that has imported everything already. The counting is patched into the fork only: production code
knows nothing of it.
"""

import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS = ("open", "write", "writev", "fdatasync", "fsync", "close", "rename", "unlink", "ftruncate", "statvfs", "mkdir")
"""Functions of `os` that are counted; besides `io.open`, and what a socket sends."""
INSTANCES, NOTICES = "statvfs", "notices/lock"
"""The step that the counting begins with: a look at the free space, or that file's opening."""


def _serve(data: Path, kill_at: int, first: str) -> None:
    """Runs the scp role, and dies of SIGKILL before its step `kill_at`; 0 lets it live."""
    from hilum_listener import __main__
    from hilum_listener.handlers import spool

    spool._AHEAD = 3  # so that a round makes names more than once
    steps = 0
    armed = False
    lock = threading.Lock()

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            nonlocal steps, armed
            with lock:
                armed = armed or name == first or str(args[0]).endswith(first)
                steps += armed
                if steps == kill_at and armed:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        return step

    for name in STEPS:
        setattr(os, name, counted(name, getattr(os, name)))
    io.open = counted("io.open", io.open)
    for name in ("send", "sendall"):
        setattr(socket.socket, name, counted(name, getattr(socket.socket, name)))
    with (data / "scp.log").open("ab") as log:
        os.dup2(log.fileno(), 2)
    (data / "steps").unlink(missing_ok=True)
    code = __main__.main(["scp", "--data", str(data), "--port", "0"])
    (data / "steps").write_text(str(steps))
    os._exit(code)


class Forks:
    """A process that has imported everything and forks the scp role when told to, one at a time."""

    def __init__(self) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "hilum_listener.testing_forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.pid = 0
        self.ended: int | None = 0

    def start(self, data: Path, kill_at: int, first: str = INSTANCES) -> None:
        """`first`: `INSTANCES` or `NOTICES`, what is counted."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps([str(data), kill_at, first]).encode() + b"\n")
        self.pid, self.ended = self._number(), None

    def wait(self, timeout_s: float) -> int | None:
        """How it ended, as `waitstatus_to_exitcode` says it; None when it hasn't yet."""
        assert self._popen.stdout is not None
        if self.ended is None and select.select([self._popen.stdout], [], [], timeout_s)[0]:
            self.ended = self._number()
        return self.ended

    def stop(self, signum: signal.Signals) -> int:
        if self.wait(0.0) is None:
            os.kill(self.pid, signum)
        ended = self.wait(30.0)
        assert ended is not None, "it does not end"
        return ended

    def close(self) -> None:
        if self.ended is None:
            self.stop(signal.SIGKILL)
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        self._popen.wait(10)

    def _number(self) -> int:
        assert self._popen.stdout is not None
        return int(self._popen.stdout.readline())


def run_round(forks: Forks, data: Path, send: Callable[[int], None], kill_at: int, first: str = INSTANCES) -> int:
    """Starts the process, sends to its port, and ends it if it lives.

    Returns minus the signal that ended it; of a round that is let live (`kill_at` 0), how many steps it had.
    """
    port_file, log = data / "run" / "scp.port", data / "scp.log"
    port_file.unlink(missing_ok=True)
    forks.start(data, kill_at, first)
    deadline = time.monotonic() + 60
    while not port_file.exists():
        assert forks.wait(0.005) is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline, "it does not listen"
    send(int(port_file.read_text()))
    forks.wait(0.3 if kill_at else 0.0)  # the last steps come after the last answer
    ended = forks.stop(signal.SIGTERM)
    assert ended in (0, -signal.SIGKILL), log.read_text()[-2000:]
    return int((data / "steps").read_text()) if ended == 0 else ended


def _fork() -> int:
    from hilum_listener.transport import scp

    assert scp
    for line in sys.stdin.buffer:
        data, kill_at, first = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _serve(Path(data), kill_at, first)
        os.write(1, b"%d\n" % pid)
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    return 0


if __name__ == "__main__":
    sys.exit(_fork())
