"""The reading order, whatever the studies are."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import assume, given
from hypothesis import strategies as st

from hilum.domain.study import OrderPriority
from hilum.domain.worklist import RANK, Entry, Limits, effective_priority, reading_order
from hilum.runtime.config import Worklist

NOW = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
LIMITS = Worklist().to_domain()

priorities = st.sampled_from(OrderPriority)
labels = st.lists(st.sampled_from(["Nodule", "Pneumothorax", "Fracture"]), unique=True, max_size=3).map(tuple)
waits = st.one_of(
    st.integers(-3600, 6 * 3600).map(lambda seconds: timedelta(seconds=seconds)),
    st.sampled_from([timedelta(0), LIMITS.stat, LIMITS.urgent, LIMITS.routine]),
)


@st.composite
def entry_lists(draw: st.DrawFn, least: int = 0) -> list[Entry]:
    count = draw(st.integers(least, 12))
    return [Entry(f"1.2.{n}", draw(priorities), NOW - draw(waits), draw(labels)) for n in range(count)]


def uids(entries: list[Entry], now: datetime = NOW, limits: Limits = LIMITS) -> list[str]:
    return [place.entry.study_instance_uid for place in reading_order(entries, limits, now=now)]


def is_overdue(entry: Entry, now: datetime = NOW) -> bool:
    return now - entry.waiting_since >= LIMITS.of(entry.order_priority)


@given(entry_lists(), st.randoms(use_true_random=False))
def test_the_order_is_the_same_for_the_same_studies_given_in_any_order(entries: list[Entry], random: object) -> None:
    shuffled = list(entries)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert reading_order(shuffled, LIMITS, now=NOW) == reading_order(entries, LIMITS, now=NOW)


@given(entry_lists())
def test_every_study_has_one_place_and_a_reason_for_it(entries: list[Entry]) -> None:
    places = reading_order(entries, LIMITS, now=NOW)
    assert [place.position for place in places] == list(range(1, len(entries) + 1))
    assert {place.entry for place in places} == set(entries)
    assert all(place.reason.strip() and place.wait >= timedelta(0) for place in places)


@given(entry_lists(least=1), labels, st.data())
def test_a_finding_never_moves_its_own_study_down_and_never_swaps_two_others(
    entries: list[Entry], found: tuple[str, ...], data: st.DataObject
) -> None:
    chosen = data.draw(st.integers(0, len(entries) - 1))
    without = [replace(e, urgent_labels=()) if n == chosen else e for n, e in enumerate(entries)]
    with_finding = [replace(e, urgent_labels=found) if n == chosen else e for n, e in enumerate(entries)]
    uid = entries[chosen].study_instance_uid
    before, after = uids(without), uids(with_finding)
    assert after.index(uid) <= before.index(uid)
    before.remove(uid)
    after.remove(uid)
    assert after == before


@given(entry_lists(least=2))
def test_the_ai_moves_no_study_past_a_more_urgent_order_than_urgent(entries: list[Entry]) -> None:
    """A lifted routine study is above a STAT one only when it is past its own limit."""
    order = [place.entry for place in reading_order(entries, LIMITS, now=NOW)]
    for above, entry in enumerate(order):
        for below in order[above + 1 :]:
            if below.order_priority is OrderPriority.STAT and entry.order_priority is not OrderPriority.STAT:
                assert is_overdue(entry)


@given(entry_lists())
def test_nothing_the_ai_says_gives_a_study_less_than_its_order_asked_for(entries: list[Entry]) -> None:
    for place in reading_order(entries, LIMITS, now=NOW):
        assert RANK[place.priority] <= RANK[place.entry.order_priority]
        if place.priority is not place.entry.order_priority:
            assert place.entry.urgent_labels


@given(entry_lists())
def test_studies_past_their_limit_come_first_and_the_longest_past_it_on_top(entries: list[Entry]) -> None:
    order = [place.entry for place in reading_order(entries, LIMITS, now=NOW)]
    flags = [is_overdue(entry) for entry in order]
    assert flags == sorted(flags, reverse=True)
    past = [NOW - e.waiting_since - LIMITS.of(e.order_priority) for e in order[: sum(flags)]]
    assert past == sorted(past, reverse=True)


@given(entry_lists())
def test_within_a_priority_the_longest_wait_comes_first(entries: list[Entry]) -> None:
    order = [place.entry for place in reading_order(entries, LIMITS, now=NOW)]
    for priority in OrderPriority:
        since = [e.waiting_since for e in order if not is_overdue(e) and effective_priority(e) is priority]
        assert since == sorted(since)


@given(entry_lists(least=1), entry_lists(), st.integers(0, 48 * 3600), st.data())
def test_nobody_starves_since_nothing_that_comes_later_passes_a_study_past_its_limit(
    entries: list[Entry], newcomers: list[Entry], later_s: int, data: st.DataObject
) -> None:
    chosen = data.draw(st.sampled_from(entries))
    assume(is_overdue(chosen))
    later = NOW + timedelta(seconds=later_s)
    arrived = [
        replace(e, study_instance_uid=f"9.9.{n}", waiting_since=max(e.waiting_since, NOW) + timedelta(seconds=n))
        for n, e in enumerate(newcomers)
    ]
    ahead_now = uids(entries)[: uids(entries).index(chosen.study_instance_uid)]
    order = uids([*entries, *arrived], now=later)
    assert order[: order.index(chosen.study_instance_uid)] == ahead_now


@given(entry_lists(least=1))
def test_every_study_is_past_its_limit_at_last_whatever_the_ai_said(entries: list[Entry]) -> None:
    end = NOW + max(LIMITS.stat, LIMITS.urgent, LIMITS.routine) + timedelta(hours=1)
    assert all(place.overdue for place in reading_order(entries, LIMITS, now=end))


def test_the_reason_names_the_finding_that_lifted_a_study_and_what_was_ordered() -> None:
    lifted = Entry("1.2.1", OrderPriority.ROUTINE, NOW - timedelta(minutes=9), ("Pneumothorax",))
    plain = Entry("1.2.2", OrderPriority.ROUTINE, NOW - timedelta(minutes=90))
    stat = Entry("1.2.3", OrderPriority.STAT, NOW - timedelta(minutes=1))
    late = Entry("1.2.4", OrderPriority.ROUTINE, NOW - timedelta(minutes=250), ("Nodule",))
    places = reading_order([plain, lifted, stat, late], LIMITS, now=NOW)
    assert [(p.entry.study_instance_uid, p.reason) for p in places] == [
        ("1.2.4", "waited 4 h 10 min, past the 4 h 00 min limit for routine orders; AI: Nodule"),
        ("1.2.3", "ordered stat, waiting 1 min"),
        ("1.2.1", "lifted by AI: Pneumothorax; ordered routine, waiting 9 min"),
        ("1.2.2", "ordered routine, waiting 1 h 30 min"),
    ]


def test_a_clock_that_was_set_back_gives_a_wait_of_zero() -> None:
    (place,) = reading_order([Entry("1.2.1", OrderPriority.STAT, NOW + timedelta(minutes=5))], LIMITS, now=NOW)
    assert (place.wait, place.overdue) == (timedelta(0), False)
    assert place.reason == "ordered stat, waiting 0 s"
