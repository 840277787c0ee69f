"""The short form of `make chaos`: twenty faults over forty studies, and nothing lost, nothing twice."""

import secrets
import signal
from pathlib import Path

import pytest

from hilum_standalone.chaos.run import Plan, chaos

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_twenty_faults_lose_nothing_and_nothing_comes_twice(tmp_path: Path) -> None:
    seed = secrets.randbelow(10**9)
    report = chaos(tmp_path / "chaos", Plan(seed, studies=40, faults=20), say=print)
    print("\n".join(report.lines()))
    assert report.wrong == ()
    assert sum(report.faults.values()) >= 20
    assert report.instances >= 80
    # One that the killer had just started again may get SIGTERM before it listens to it: it holds nothing yet.
    assert {name: code for name, code in report.exits.items() if code not in (0, -signal.SIGTERM)} == {}
