"""SIGKILL before each step in turn: the short form of `make prove-kill`, which does it 500 times."""

from pathlib import Path

import pytest

from hilum_listener.testing_kill import prove

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_what_was_acknowledged_is_there_and_indexed_once_whichever_step_the_kill_comes_before(tmp_path: Path) -> None:
    proof = prove(tmp_path, rounds=15)
    assert proof.killed == 15
    assert proof.steps_hit == set(range(1, 16)), "the steps of the first instance and the answer to it"
    assert proof.acknowledged >= 4
    assert proof.sent_again > 0
