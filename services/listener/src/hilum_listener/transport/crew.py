"""Several receiving processes behind one port: one that starts them and watches over them, and receives nothing itself.

Each child has the listening sockets from its start, a spool's run and a journal of its own, and a row in the shared
limits. One that dies takes its own associations along and nothing else; another takes its place.
"""

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from hilum.runtime.logs import Log
from hilum_listener.handlers.shared_limits import SharedLimits

_LOG = Log("hilum.listener.crew")
_LOOK_S = 0.1
_EARLY_S = 1.0
_STOP_S = 9.0

Command = Callable[[int, Sequence[int]], list[str]]


class Crew:
    """`command`: what a child is, from its number and the descriptors of the sockets."""

    def __init__(self, command: Command, sockets: Sequence[socket.socket], limits: SharedLimits, size: int) -> None:
        self._command = command
        self._sockets = list(sockets)  # open as long as this is: what comes meanwhile waits there for a child
        self._limits = limits
        self._children: list[subprocess.Popen[bytes]] = []
        self._started_s = [0.0] * size
        self._size = size

    def run(self, stop: threading.Event) -> None:
        """Returns when `stop` is set and every child has ended."""
        self._children = [self._start(number) for number in range(self._size)]
        while not stop.wait(_LOOK_S):
            for number, child in enumerate(self._children):
                if child.poll() is not None:
                    _LOG.error("receiving process ended", process=str(number), state=str(child.returncode))
                    self._limits.clear(number)
                    if time.monotonic() - self._started_s[number] < _EARLY_S:
                        stop.wait(_EARLY_S)  # it can't start; not again and again at once
                    if not stop.is_set():
                        self._children[number] = self._start(number)
        self._stop()

    def _start(self, number: int) -> "subprocess.Popen[bytes]":
        self._started_s[number] = time.monotonic()
        fds = [one.fileno() for one in self._sockets]
        return subprocess.Popen(self._command(number, fds), pass_fds=fds)

    def _stop(self) -> None:
        for child in self._children:
            child.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        for child in self._children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
