"""What a process waits for, in `run/<name>.health`, for whoever supervises it.

The file is written anew every two seconds, so one that is older belongs to a process that hangs or is gone. It needs no
port and no client, and a probe reads it without meeting what is away:

    python -m hilum.runtime.health DATA NAME [--ready]

ends with 0 when the process lives (with `--ready`: and waits for nothing), 1 when it waits, 2 when there is no sign of
life. To wait is no reason to be started again: the same process goes on by itself.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_EVERY_S = 2.0
_HANGS_S = 6.0
_STALE_S = 15.0

Check = Callable[[], None]
"""Returns when what it asks answers; raises the reason in `reason` or as its text when it is away."""


class Health:
    """Asks each of `checks` in a thread of its own and writes down what it says."""

    def __init__(
        self,
        data: Path,
        name: str,
        checks: Mapping[str, Check],
        *,
        every_s: float = _EVERY_S,
        hangs_s: float = _HANGS_S,
    ) -> None:
        self._path = data / "run" / f"{name}.health"
        self._checks = dict(checks)
        self._every_s = every_s
        self._hangs_s = hangs_s
        self._away: dict[str, str] = {}
        self._asked_at: dict[str, float] = {}

    def start(self, stop: threading.Event) -> None:
        """Writes until `stop` is set. A check that hangs holds up its own thread only."""
        for what, check in self._checks.items():
            threading.Thread(target=self._ask, args=(what, check, stop), name=f"health {what}", daemon=True).start()
        threading.Thread(target=self._write_on, args=(stop,), name="health", daemon=True).start()

    @property
    def waits_for(self) -> dict[str, str]:
        """What is away, and why."""
        now, found = time.monotonic(), dict(self._away)
        for what, asked_at in list(self._asked_at.items()):
            if now - asked_at > self._hangs_s:
                found[what] = f"doesn't answer for {round(now - asked_at)} s"
        return found

    def _ask(self, what: str, check: Check, stop: threading.Event) -> None:
        while not stop.is_set():
            self._asked_at[what] = time.monotonic()
            try:
                check()
            except Exception as error:  # of a library too: it is away, whatever it says
                self._away[what] = str(getattr(error, "reason", "") or type(error).__name__)
            else:
                self._away.pop(what, None)
            self._asked_at.pop(what, None)
            stop.wait(self._every_s)

    def _write_on(self, stop: threading.Event) -> None:
        while True:
            with suppress(OSError):  # a full disk: the sign of life is missing then
                self._write()
            if stop.wait(self._every_s):
                return

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_name(f".{self._path.name}.part")
        part.write_text(json.dumps({"pid": os.getpid(), "waits_for": self.waits_for}))
        part.replace(self._path)


@dataclass(frozen=True, slots=True)
class Said:
    """`alive`: there was a sign of life in the last seconds."""

    alive: bool
    waits_for: Mapping[str, str]


def read(data: Path, name: str) -> Said:
    """What the process wrote last; one that never wrote is not alive."""
    path = data / "run" / f"{name}.health"
    try:
        age_s = time.time() - path.stat().st_mtime
        waits_for = json.loads(path.read_text())["waits_for"]
    except (OSError, ValueError, KeyError):
        return Said(False, {})
    return Said(age_s < _STALE_S, waits_for)


def main(arguments: list[str] | None = None) -> int:
    about = "Is a service alive, is it ready?"
    parser = argparse.ArgumentParser(prog="python -m hilum.runtime.health", description=about)
    parser.add_argument("data", type=Path, help="its data folder")
    parser.add_argument("name", help="of run/NAME.health")
    parser.add_argument("--ready", action="store_true", help="also: does it wait for nothing?")
    given = parser.parse_args(arguments)
    said = read(given.data, given.name)
    for what, reason in said.waits_for.items():
        print(f"waits for {what}: {reason}")
    if not said.alive:
        print("no sign of life")
        return 2
    return 1 if given.ready and said.waits_for else 0


if __name__ == "__main__":
    sys.exit(main())
