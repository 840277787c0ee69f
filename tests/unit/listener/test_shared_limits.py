"""Limits that several receiving processes share count what is open in all of them."""

from pathlib import Path

import pytest

from hilum.runtime.config import Peer
from hilum_listener.handlers.peers import PeerLimits, Refusal
from hilum_listener.handlers.shared_limits import SharedLimits

CT = Peer(ae_title="CT", max_associations=2, max_associations_per_min=3)
MR = Peer(ae_title="MR")


@pytest.fixture
def both(tmp_path: Path) -> list[SharedLimits]:
    path = tmp_path / "limits"
    SharedLimits.create(path, [CT, MR], processes=2)
    return [SharedLimits(path, [CT, MR], processes=2, row=row) for row in range(2)]


def test_what_is_open_elsewhere_is_that_of_the_others_and_ends_with_them(both: list[SharedLimits]) -> None:
    one, other = both
    one.publish(5, {CT: 2, MR: 3})
    other.publish(1, {MR: 1})
    assert [one.elsewhere(), one.elsewhere(CT), one.elsewhere(MR)] == [1, 0, 1]
    assert [other.elsewhere(), other.elsewhere(CT), other.elsewhere(MR)] == [5, 2, 3]
    other.clear(0)
    assert [other.elsewhere(), other.elsewhere(CT), other.elsewhere(MR)] == [0, 0, 0]
    assert one.elsewhere() == 1


def test_associations_in_a_minute_are_counted_whichever_process_takes_them(both: list[SharedLimits]) -> None:
    times = [0.0, 10.0, 20.0, 59.9, 60.0, 60.1, 70.0]
    expected = [None, None, None, Refusal.CONGESTION, None, Refusal.CONGESTION, None]
    alone = PeerLimits()
    shared = [both[n % 2].take(CT, open_now=0, now_s=at) for n, at in enumerate(times)]
    assert shared == [alone.take(CT, open_now=0, now_s=at) for at in times] == expected


def test_a_peer_without_limits_has_none(both: list[SharedLimits]) -> None:
    assert [both[0].take(MR, open_now=n, now_s=0.0) for n in range(100)] == [None] * 100
