"""The short form of `python -m hilum_listener.testing_large_index`, which holds a million."""

import statistics
from pathlib import Path

import pytest

from hilum_listener.testing_large_index import measure

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_folding_into_a_large_index_is_not_much_slower_than_into_an_empty_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large, empty = measure(tmp_path, held=50_000, rounds=6, count=60)
    assert statistics.median(large) >= 0.7 * statistics.median(empty), "0.9 is the target, on a quiet machine"
    longest = float(capsys.readouterr().out.rsplit("longest ", 1)[1].split()[0])
    assert longest <= 1.0
