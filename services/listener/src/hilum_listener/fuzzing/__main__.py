"""`python -m hilum_listener.fuzzing --seconds N --corpus DIR`: fuzzes every target in a process of its own, in turn.

Half of the time guided by coverage (atheris), half of it without instrumentation; both are fed by grammars. A target
fails on any exception, an execution of more than two seconds of CPU time, or 300 MB of growth; the input is then kept
in DIR/../broke/TARGET, where the tests find it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from hilum_listener.fuzzing.coverage import lines_reached

_GROWTH_KB = 300 * 1024
_LIBFUZZER = ("-timeout=30", "-rss_limit_mb=0", "-max_len=20000", "-reload=0")
_NAMES = ("pdu", "part10", "stow")


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 when something broke."""
    parser = argparse.ArgumentParser(prog="hilum_listener.fuzzing", description=__doc__)
    parser.add_argument("--seconds", type=int, required=True, help="for all targets together")
    parser.add_argument("--corpus", type=Path, required=True, help="a folder with one folder of inputs per target")
    parser.add_argument("--target", choices=_NAMES, help="this one only")
    parser.add_argument("--how", choices=["guided", "blind"], help="this way only")
    given = parser.parse_args(arguments)
    ways = [given.how] if given.how else ["guided", "blind"]
    runs = [(name, way) for name in ([given.target] if given.target else _NAMES) for way in ways]
    print("target           executions      beyond   edges         lines  slowest s  growth MB  result", flush=True)
    results = [_fuzz(name, way, max(given.seconds // len(runs), 1), given.corpus) for name, way in runs]
    return int(not all(results))


def _fuzz(name: str, way: str, seconds: int, corpus: Path) -> bool:
    """Runs one target in a child, prints its line; True when nothing broke."""
    broke = corpus.parent / "broke" / name
    broke.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        found, report, log = Path(folder, "found"), Path(folder, "report.json"), Path(folder, "log")
        found.mkdir()
        command: list[str | Path] = [sys.executable, "-m", f"hilum_listener.fuzzing.{way}", name, report]
        if way == "guided":
            command += [found, corpus / name, f"-max_total_time={seconds}", f"-artifact_prefix={broke}/", *_LIBFUZZER]
        else:
            command += [str(seconds), corpus / name, broke]
        with log.open("wb") as output:
            done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, timeout=seconds + 120, check=False)
        told = log.read_text(errors="replace")
        if not report.exists():
            print(told[-3000:])
            return False
        numbers = json.loads(report.read_text())
        reached, all_lines = lines_reached(name, [*(corpus / name).iterdir(), *found.iterdir()])
    sound = done.returncode == 0 and numbers["growth_kb"] <= _GROWTH_KB
    edges, lines = (_edges(told), f"{reached}/{all_lines}") if way == "guided" else ("", "")
    print(
        f"{name:8}{way:8}{numbers['executions']:12,}{numbers['beyond']:12,}{edges:>8}{lines:>14}"
        f"{numbers['slowest_s']:11.3f}{numbers['growth_kb'] // 1024:11}  {'ok' if sound else 'BROKEN'}",
        flush=True,
    )
    if not sound:
        print(told[-3000:])
    return sound


def _edges(told: str) -> str:
    """libFuzzer's count of covered edges, from its last line that has one."""
    counts = [part.split()[0] for part in told.split("cov: ")[1:]]
    return counts[-1] if counts else "?"


if __name__ == "__main__":
    os.nice(10)
    sys.exit(main())
