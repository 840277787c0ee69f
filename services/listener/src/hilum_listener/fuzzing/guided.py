"""`python -m hilum_listener.fuzzing.guided TARGET REPORT FOLDER… OPTION…`: one target under atheris."""

import json
import logging
import random
import resource
import sys
import time
import warnings
from pathlib import Path

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]  # `make fuzz` installs it

HANG_S = 2.0
_REPORT_EACH_S = 0.5

with atheris.instrument_imports(include=["hilum.adapters.dicom", "hilum_listener", "pynetdicom", "python_multipart"]):
    from hilum_listener.fuzzing.grammar import GRAMMARS, damage
    from hilum_listener.fuzzing.targets import TARGETS


class Hang(Exception):
    """One execution took too long."""


class Run:
    """Counts what it executes, and writes the counts down as it goes: libFuzzer ends the process without a word."""

    def __init__(self, name: str, report: Path) -> None:
        self._target, self._make = TARGETS[name], GRAMMARS[name]
        self._report = report
        self._executions = self._beyond = 0
        self._slowest_s = 0.0
        self._reported_at = 0.0
        self._first_kb = 0

    def one(self, data: bytes) -> None:
        begun = time.thread_time()
        beyond = self._target(data)
        took_s = time.thread_time() - begun
        self._executions += 1
        self._beyond += beyond
        self._slowest_s = max(self._slowest_s, took_s)
        if took_s > HANG_S:
            raise Hang(f"{took_s:.1f} s of CPU time")
        if time.monotonic() - self._reported_at > _REPORT_EACH_S:
            self._write()

    def mutate(self, data: bytes, max_size: int, seed: int) -> bytes:
        """A new input of the grammar, the given one damaged, or what libFuzzer makes of it."""
        draw = random.Random(seed)
        pick = draw.random()
        if pick < 0.4:
            made = self._make(draw)
        elif pick < 0.75:
            made = damage(data, draw)
        else:
            made = atheris.Mutate(data, max_size)
        return bytes(made)[:max_size]

    def _write(self) -> None:
        peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._first_kb = self._first_kb or peak_kb
        self._reported_at = time.monotonic()
        self._report.write_text(
            json.dumps(
                {
                    "executions": self._executions,
                    "beyond": self._beyond,
                    "slowest_s": self._slowest_s,
                    "growth_kb": peak_kb - self._first_kb,
                }
            )
        )


def main() -> None:
    name, report, *rest = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    run = Run(name, Path(report))
    atheris.Setup([sys.argv[0], *rest], run.one, custom_mutator=run.mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
