"""SIGKILL before each step in turn: the short form of `make prove-kill`, which does it 500 times."""

from pathlib import Path

import pytest

from hilum_listener.testing_kill import prove
from hilum_listener.testing_kill_services import prove_services

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_what_was_acknowledged_is_there_and_indexed_once_whichever_step_the_kill_comes_before(tmp_path: Path) -> None:
    proof = prove(tmp_path, rounds=15)
    assert proof.killed == 15
    assert proof.steps_hit == set(range(1, 16)), "the steps of the first instance and the answer to it"
    assert proof.acknowledged >= 4
    assert proof.sent_again > 0


def test_a_step_a_notification_and_a_request_that_were_answered_are_in_the_index_and_known_when_they_come_again(
    tmp_path: Path,
) -> None:
    proof = prove_services(tmp_path / "data", rounds=28, stride=8)
    assert proof.killed >= 25, "a later round may have fewer steps than the first one"
    assert proof.steps_of_a_round > 100
    assert len(proof.steps_hit) >= 25, "steps of each of the four requests, and their answers"
    assert proof.answered >= 40
    assert proof.repeated >= 40
