"""A study is complete after its quiet time, and not before."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilum.domain.study import Complete, OrderPriority, Wait, decide_completeness, order_priority

NOW = st.timedeltas(timedelta(0), timedelta(days=36_500)).map(lambda d: datetime(2000, 1, 1, tzinfo=UTC) + d)
QUIET = st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(days=1))
AGO = st.timedeltas(min_value=timedelta(hours=-1), max_value=timedelta(days=2))


@given(NOW, QUIET, AGO)
def test_it_is_complete_exactly_when_nothing_came_for_the_quiet_time(
    now: datetime, quiet: timedelta, ago: timedelta
) -> None:
    decision = decide_completeness(now=now, last_received_at=now - ago, quiet_time=quiet)
    assert isinstance(decision, Complete) == (ago >= quiet)


@given(NOW, QUIET, AGO)
def test_waiting_until_the_named_time_is_enough_and_no_less_is(now: datetime, quiet: timedelta, ago: timedelta) -> None:
    last = now - ago
    decision = decide_completeness(now=now, last_received_at=last, quiet_time=quiet)
    if isinstance(decision, Wait):
        assert decision.until > now
        assert isinstance(decide_completeness(now=decision.until, last_received_at=last, quiet_time=quiet), Complete)
        just_before = decision.until - timedelta(microseconds=1)
        assert decide_completeness(now=just_before, last_received_at=last, quiet_time=quiet) == decision


def test_the_reason_names_the_quiet_time() -> None:
    now = datetime(2026, 11, 24, tzinfo=UTC)
    decision = decide_completeness(
        now=now, last_received_at=now - timedelta(seconds=9), quiet_time=timedelta(seconds=2.5)
    )
    assert decision == Complete("no image for 2.5 s")


@pytest.mark.parametrize(
    ("term", "priority"),
    [
        ("STAT", OrderPriority.STAT),
        (" high ", OrderPriority.URGENT),
        ("Urgent", OrderPriority.URGENT),
        ("MEDIUM", OrderPriority.ROUTINE),
        ("LOW", OrderPriority.ROUTINE),
        ("", OrderPriority.ROUTINE),
        ("ASAP PLEASE", OrderPriority.ROUTINE),
    ],
)
def test_the_orders_priority_follows_the_dicom_term(term: str, priority: OrderPriority) -> None:
    assert order_priority(term) is priority
