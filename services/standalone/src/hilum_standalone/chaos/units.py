"""What can be killed and paused: each process of the cluster, started again when it is gone."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol

import psutil  # type: ignore[import-untyped]

from hilum.testing.external import Process


class Server(Protocol):
    """As the servers of `hilum.testing` are."""

    @property
    def process(self) -> Process: ...

    def kill(self) -> None: ...

    def stop(self) -> None: ...


class Unit:
    """One process with its children.

    Args:
        start: starts it anew and returns when it can be killed again.
        stop: ends it in the end.
        at_random: also a child of it may be killed alone.
    """

    def __init__(
        self,
        name: str,
        start: Callable[[], object],
        process: Callable[[], Process],
        *,
        kill: Callable[[], None] | None = None,
        at_random: bool = False,
    ) -> None:
        self.name = name
        self._start = start
        self._process = process
        self._kill = kill or (lambda: process().kill())
        self.at_random = at_random
        self.lock = threading.Lock()
        self.unasked: list[str] = []
        """Ends that nobody caused, bugs or a service's own last resort: the exit code and the last words."""

    def start(self) -> None:
        self._start()

    def kill(self, chance: random.Random, *, down_s: float) -> str:
        """SIGKILL to it, or to one of its children; it is back when this returns."""
        with self.lock:
            children = self._children()
            if self.at_random and children and chance.random() < 0.5:
                child = chance.choice(children)
                with suppress(psutil.Error):
                    child.kill()
                return "child killed"
            self._kill()
            time.sleep(down_s)
            self._start()
        return "killed"

    def pause(self, seconds: float) -> str:
        """SIGSTOP to it and its children, for a while."""
        with self.lock:
            stopped = [
                self._process().pid,
                *(child.pid for child in self._children()),
            ]  # PostgreSQL's lead their own groups
            _signal(stopped, signal.SIGSTOP)
            try:
                time.sleep(seconds)
            finally:
                _signal(stopped, signal.SIGCONT)
        return f"paused {seconds:.1f} s"

    def look(self) -> None:
        """Starts it again when it ended by itself."""
        if not self.lock.acquire(blocking=False):
            return
        try:
            code = self._process().popen.poll()
            if code is not None:
                self.unasked.append(f"{code}: {self._process().tail(600).strip()}")
                time.sleep(0.3)
                self._start()
        finally:
            self.lock.release()

    def _children(self) -> list[psutil.Process]:
        try:
            return list(psutil.Process(self._process().pid).children(recursive=True))
        except psutil.Error:
            return []


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
