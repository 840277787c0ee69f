"""What a fuzzing process has done so far, written down as it goes, since nothing is left when it is killed."""

import json
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from hilum_listener.fuzzing.targets import TARGETS

HANG_S = 2.0
_WRITE_EACH_S = 0.5


class Hang(Exception):
    """One execution took too long."""


@dataclass
class Counts:
    """`beyond`: executions that got beyond the pre-check. `growth_kb`: of resident memory since the first ones."""

    executions: int = 0
    beyond: int = 0
    slowest_s: float = 0.0
    growth_kb: int = 0


class Tally:
    """Executes one target and counts."""

    def __init__(self, name: str, report: Path) -> None:
        self._target = TARGETS[name]
        self._report = report
        self._counts = Counts()
        self._written_at = 0.0
        self._first_kb = 0

    def execute(self, data: bytes) -> None:
        """Raises `Hang`, and whatever the target raises."""
        begun = time.thread_time()
        beyond = self._target(data)
        took_s = time.thread_time() - begun
        counts = self._counts
        counts.executions += 1
        counts.beyond += beyond
        counts.slowest_s = max(counts.slowest_s, took_s)
        if took_s > HANG_S:
            raise Hang(f"{took_s:.1f} s of CPU time")
        if time.monotonic() - self._written_at > _WRITE_EACH_S:
            self.write()

    def write(self) -> None:
        peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._first_kb = self._first_kb or peak_kb
        self._counts.growth_kb = peak_kb - self._first_kb
        self._written_at = time.monotonic()
        self._report.write_text(json.dumps(asdict(self._counts)))
