"""The arithmetic of the bench."""

from datetime import UTC, datetime, timedelta

import pytest

from hilum.adapters.sql.ledger_values import AttemptRow, DeliveryRow, JobRow, ModelRow, ResultRow, RevisionRow
from hilum.domain.results import AiState, DeliveryState, Format
from hilum_standalone.bench import STEPS, Sample, p95, split, table

START = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def revision() -> tuple[RevisionRow, DeliveryRow]:
    """Last image at 0, complete at 5.1, claimed at 5.3, done at 7.0, sent at 7.2, accepted at 7.5."""
    result = ResultRow(
        "k", AiState.NEGATIVE, ModelRow("m", "1", "d", "h", True, ""), (), (), "", (), (), (), "", at(7), at(7.1),
        {"decode": 0.4, "model": 1.2}, (),
    )  # fmt: skip
    job = JobRow("done", 1, "", "w", at(5.2), at(5.3), at(7.0))
    sr = DeliveryRow(
        1, "pacs", Format.SR, DeliveryState.ACCEPTED, "", at(7.1), at(7.5), at(7.1),
        (AttemptRow(1, at(7.2), 0.3, "accepted", ""),),
    )  # fmt: skip
    found = RevisionRow(1, AiState.NEGATIVE, "", 2, at(0), at(5.1), "", at(7.1), None, job, result, (sr,))
    return found, sr


def test_the_steps_add_up_to_the_total() -> None:
    sample = split(*revision(), responded_at=at(0), quiet_s=5.0)
    assert dict(zip(STEPS, sample.steps, strict=True)) == pytest.approx(
        {
            "quiet time": 5.0, "assembly": 0.1, "routing, queue": 0.2, "decode": 0.4, "model": 1.2, "publish": 0.1,
            "encode": 0.2, "deliver": 0.3,
        }
    )  # fmt: skip
    assert sum(sample.steps) == pytest.approx(sample.total_s) == pytest.approx(7.5)
    assert sample.own_s == pytest.approx(1.3)


def test_the_table_has_median_and_p95_of_each_step() -> None:
    samples = [Sample((float(n),) * len(STEPS), n * 8.0) for n in range(1, 21)]
    lines = table(samples).splitlines()
    assert len(lines) == 1 + len(STEPS) + 2
    assert lines[1].split() == ["quiet", "time", "10.500", "19.050"]
    assert lines[-1].split()[-2:] == ["63.000", "114.300"]
    assert p95([1.0, 2.0]) == pytest.approx(1.95)
