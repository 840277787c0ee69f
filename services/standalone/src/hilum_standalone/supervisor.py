"""Starts the services, starts them again when they end, and stops them in order."""

import ctypes
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from hilum_standalone.folder import write_atomically

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_STEADY_S = 30.0  # a service that ran this long starts again without a longer pause
_LOG_BYTES = 10_000_000
_LOGS_KEPT = 3
_NOTE_AGAIN_S = 5.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class Program:
    """One service: `command` follows the Python interpreter; `ready` looks, quickly, whether this process id serves."""

    name: str
    command: tuple[str, ...]
    ready: Callable[[int], bool] = lambda _pid: True


@dataclass(slots=True)
class _Child:
    program: Program
    popen: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    due_at: float = 0.0
    pause_s: float = _FIRST_PAUSE_S
    restarts: int = field(default=0)


class Supervisor:
    """Not thread-safe: start, tick and stop belong to the main thread (a child follows the thread that made it).

    What it writes itself is for people to read; where that can't be written (a full disk) supervision goes on.

    Args:
        say: told in one line when a service ends unasked.
        inherit: descriptors that the services keep open (the folder's lock).
    """

    def __init__(self, programs: Sequence[Program], *, data: Path, say: Callable[[str], None], inherit: int) -> None:
        self._children = [_Child(program) for program in programs]
        self._data = data
        self._say = say
        self._inherit = inherit
        self._die_with_parent = _death_signal()
        self._troubled: set[str] = set()  # what can't be done at the moment; each was told once
        self._note_due_at = 0.0

    def start(self) -> None:
        for child in self._children:
            self._start(child)
        self._note()

    def tick(self) -> None:
        """Reaps what ended, starts what is due. Called several times a second."""
        now = time.monotonic()
        changed = False
        for child in self._children:
            if child.popen is not None and child.popen.poll() is not None:
                self._ended(child, now)
                changed = True
            elif child.popen is None and now >= child.due_at:
                child.restarts += 1
                self._start(child)
                changed = True
            elif child.popen is not None and now - child.started_at > _STEADY_S:
                child.pause_s = _FIRST_PAUSE_S
            _rotate(self.log_of(child.program.name))
        if changed or now >= self._note_due_at:
            self._note()

    def waiting_for(self) -> tuple[str, ...]:
        """The services that don't serve yet."""
        return tuple(c.program.name for c in self._children if c.popen is None or not c.program.ready(c.popen.pid))

    def hopeless(self) -> str | None:
        """The first service that ended three times before it served once, if any. Only asked before all are ready."""
        return next((c.program.name for c in self._children if c.restarts >= 2 and c.popen is None), None)

    def log_of(self, name: str) -> Path:
        return self._data / "logs" / f"{name}.log"

    def stop(self, *, timeout_s: float = 14.0) -> None:
        """SIGTERM to each in turn, the front door first, then SIGKILL to what is left when the time is over."""
        deadline = time.monotonic() + timeout_s
        left = [c for c in self._children if c.popen is not None]
        for number, child in enumerate(left):
            assert child.popen is not None
            child.popen.terminate()
            share = (deadline - time.monotonic()) / (len(left) - number)
            with suppress(subprocess.TimeoutExpired):
                child.popen.wait(max(share, 0.05))
        for child in left:
            assert child.popen is not None
            with suppress(subprocess.TimeoutExpired):
                child.popen.wait(max(deadline - time.monotonic(), 0.05))
            if child.popen.poll() is None:
                self._tell(f"{child.program.name} did not stop in time and was killed")
                child.popen.kill()
                child.popen.wait()

    def _start(self, child: _Child) -> None:
        now = time.monotonic()
        name = child.program.name
        try:
            with self._output(name) as output:
                child.popen = subprocess.Popen(
                    [sys.executable, *child.program.command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(self._inherit,),
                    start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops them in order
                    preexec_fn=self._die_with_parent,
                )
        except OSError as error:  # no process or no memory is left
            child.due_at = now + child.pause_s
            child.pause_s = min(child.pause_s * 2, _LONGEST_PAUSE_S)
            self._trouble(f"{name} can't be started and is tried again", error)
        else:
            child.started_at = now
            self._better(f"{name} can't be started and is tried again")

    @contextmanager
    def _output(self, name: str) -> Iterator[IO[bytes] | int]:
        """Where a service writes: its log, or the supervisor's own standard error where no log can be opened."""
        what = f"{name}'s log can't be opened, so it writes here"
        try:
            log = self.log_of(name).open("ab")
        except OSError as error:
            self._trouble(what, error)
            yield _own_stderr()
            return
        self._better(what)
        with log:
            yield log

    def _ended(self, child: _Child, now: float) -> None:
        assert child.popen is not None
        code = child.popen.returncode
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        child.popen = None
        child.due_at = now + child.pause_s
        self._tell(
            f"{child.program.name} {how}; it starts again in {child.pause_s:g} s "
            f"(log: {self.log_of(child.program.name)})"
        )
        child.pause_s = min(child.pause_s * 2, _LONGEST_PAUSE_S)

    def _note(self) -> None:
        """Writes who runs to `run/processes.json`; a note that failed is tried again a little later."""
        entries = {
            c.program.name: {"pid": c.popen.pid, "restarts": c.restarts} for c in self._children if c.popen is not None
        }
        path = self._data / "run" / "processes.json"
        what = f"{path} can't be written"
        try:
            write_atomically(path, json.dumps(entries, indent=1))
        except OSError as error:
            self._note_due_at = time.monotonic() + _NOTE_AGAIN_S
            self._trouble(what, error)
        else:
            self._note_due_at = math.inf
            self._better(what)

    def _tell(self, line: str) -> None:
        with suppress(OSError):  # nobody listens any more, or the output is a file on a full disk
            self._say(line)

    def _trouble(self, what: str, error: OSError) -> None:
        """Says on standard error what can't be done, once until it can be done again."""
        if what not in self._troubled:
            self._troubled.add(what)
            with suppress(OSError, ValueError):  # standard error itself may be full or closed
                print(f"{what}: {error.strerror or type(error).__name__}", file=sys.stderr, flush=True)

    def _better(self, what: str) -> None:
        self._troubled.discard(what)


def _own_stderr() -> int:
    """The descriptor of standard error; /dev/null's for Popen when there is none."""
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return 2


def _death_signal() -> Callable[[], None] | None:
    """Called in a child before its program: the kernel sends it SIGTERM when the supervisor is gone (Linux)."""
    if not sys.platform.startswith("linux"):
        return None  # the services' own watch of their parent does it a second later
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def die_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it went before the call
            os._exit(1)

    return die_with_parent


def _rotate(log: Path) -> None:
    """Keeps a log below its limit by copying it aside; its writer appends, so it goes on at the new start."""
    try:
        if log.stat().st_size < _LOG_BYTES:
            return
        for number in range(_LOGS_KEPT - 1, 0, -1):
            older = log.with_name(f"{log.name}.{number}")
            if older.exists():
                older.replace(log.with_name(f"{log.name}.{number + 1}"))
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        os.truncate(log, 0)
    except OSError:
        return  # logs must never stop the services; the next tick tries again
