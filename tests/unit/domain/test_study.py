"""A study is complete when the best evidence says so, and at its maximum age at the latest."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom._uid_dict import UID_dictionary

from hilum.domain.study import (
    Complete,
    Evidence,
    Listed,
    OrderPriority,
    Patience,
    Sending,
    Step,
    StepStatus,
    Wait,
    compare,
    decide_completeness,
    holds_images,
    order_priority,
)

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
TICK = timedelta(microseconds=1)
PATIENCE = Patience(timedelta(seconds=5), timedelta(seconds=60), timedelta(hours=1))
SHORT = st.timedeltas(TICK, timedelta(days=1))
AGO = st.timedeltas(timedelta(hours=-1), timedelta(days=2))
COUNT = st.integers(0, 4)
LISTED = st.builds(Listed, COUNT, COUNT, COUNT).filter(lambda listed: listed.missing <= listed.named)
STEPS = st.lists(st.builds(Step, st.sampled_from(StepStatus), st.sampled_from(["", "Equipment failure"])), max_size=3)
EVIDENCE = st.builds(
    Evidence,
    receiving_since=AGO.map(lambda ago: NOW - ago),
    last_received_at=AGO.map(lambda ago: NOW - ago),
    images=COUNT,
    steps=STEPS.map(tuple),
    performed=LISTED,
    available=LISTED,
    expected=st.none() | COUNT,
    sending=st.sampled_from(Sending),
)
PATIENCES = st.builds(Patience, SHORT, SHORT, SHORT)


def seen(*, last_s: float = 9, since_s: float = 60, **more: object) -> Evidence:
    """One image or more, the last `last_s` seconds ago, the first `since_s` seconds ago."""
    quiet = Evidence(NOW - timedelta(seconds=since_s), NOW - timedelta(seconds=last_s))
    return replace(quiet, **more)  # type: ignore[arg-type]


def decide(evidence: Evidence) -> Complete | Wait:
    return decide_completeness(evidence, PATIENCE, now=NOW)


@given(SHORT, SHORT, AGO, AGO)
def test_without_other_evidence_silence_or_age_completes_and_nothing_else(
    quiet: timedelta, age: timedelta, last: timedelta, since: timedelta
) -> None:
    patience = Patience(quiet, quiet, age)
    decision = decide_completeness(Evidence(NOW - since, NOW - last), patience, now=NOW)
    assert isinstance(decision, Complete) == (last >= quiet or since >= age)


@given(EVIDENCE, PATIENCES)
def test_waiting_until_the_named_time_is_enough_and_no_less_is(evidence: Evidence, patience: Patience) -> None:
    decision = decide_completeness(evidence, patience, now=NOW)
    if isinstance(decision, Wait):
        assert decision.until > NOW
        assert decision.until <= evidence.receiving_since + patience.max_age
        assert isinstance(decide_completeness(evidence, patience, now=decision.until), Complete)
        assert decide_completeness(evidence, patience, now=decision.until - TICK) == decision


@given(EVIDENCE, PATIENCES)
def test_at_its_maximum_age_every_study_is_complete(evidence: Evidence, patience: Patience) -> None:
    old = replace(evidence, receiving_since=NOW - patience.max_age)
    assert isinstance(decide_completeness(old, patience, now=NOW), Complete)


@given(EVIDENCE, PATIENCES)
def test_before_that_nothing_completes_a_study_while_a_step_is_in_progress_or_listed_images_are_missing(
    evidence: Evidence, patience: Patience
) -> None:
    young = replace(evidence, receiving_since=NOW - patience.max_age + TICK)
    in_progress = replace(young, steps=(*young.steps, Step(StepStatus.IN_PROGRESS)))
    missing = replace(young, performed=Listed(3, 1))
    for held in (in_progress, missing):
        assert isinstance(decide_completeness(held, patience, now=NOW), Wait)


@given(EVIDENCE)
def test_a_reason_is_never_empty(evidence: Evidence) -> None:
    decision = decide(evidence)
    assert isinstance(decision, Wait) or decision.reason


@given(st.sets(st.integers(0, 9).map(str)), st.sets(st.integers(0, 9).map(str)))
def test_a_list_is_compared_with_what_is_here_in_both_directions(named: set[str], here: set[str]) -> None:
    listed = compare([*named, *named], here)
    assert listed == Listed(len(named), len(named - here), len(here - named))
    assert listed.is_here == (bool(named) and named == here)


DONE, STOPPED = Step(StepStatus.COMPLETED), Step(StepStatus.DISCONTINUED, "Equipment failure")
RUNNING = Step(StepStatus.IN_PROGRESS)


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (seen(), "no image for 5 s"),
        (seen(last_s=60, sending=Sending.BROKEN), "no image for 60 s after an association broke"),
        (seen(last_s=60, sending=Sending.OPEN), "no image for 60 s on an association that is still open"),
        (
            seen(last_s=0, steps=(DONE,), performed=Listed(3)),
            "the procedure step is completed, its 3 images are all here",
        ),
        (
            seen(last_s=0, steps=(DONE, STOPPED), performed=Listed(1)),
            "the procedure step was discontinued (Equipment failure), its one image is here",
        ),
        (seen(steps=(STOPPED,)), "the procedure step was discontinued (Equipment failure), no image for 5 s"),
        (seen(steps=(DONE,), performed=Listed(2, 0, 1)), "the procedure step is completed, no image for 5 s"),
        (seen(last_s=0, available=Listed(2)), "an availability notification came, its 2 images are all here"),
        (seen(last_s=0, images=2, expected=2), "the archive was asked, its 2 images are all here"),
        (
            seen(since_s=3600, steps=(RUNNING,)),
            "the maximum age of 3600 s is reached, a procedure step is still IN PROGRESS",
        ),
        (
            seen(since_s=3600, steps=(DONE,), performed=Listed(5, 2)),
            "the maximum age of 3600 s is reached, 2 of 5 images that the procedure step names are missing",
        ),
        (
            seen(since_s=3600, images=1, expected=4),
            "the maximum age of 3600 s is reached, 3 of 4 images that the archive counts are missing",
        ),
        (seen(since_s=3600, last_s=1), "the maximum age of 3600 s is reached, images still arrive"),
    ],
)
def test_each_kind_of_evidence_completes_with_its_own_reason(evidence: Evidence, reason: str) -> None:
    assert decide(evidence) == Complete(reason)


@pytest.mark.parametrize(
    "evidence",
    [
        seen(steps=(DONE, RUNNING), performed=Listed(3)),
        seen(last_s=59, sending=Sending.BROKEN),
        seen(last_s=4, steps=(DONE,), performed=Listed(2, 0, 1)),
        seen(steps=(DONE,), performed=Listed(2, 1)),
        seen(available=Listed(2, 1)),
        seen(images=1, expected=2),
        seen(images=1, count_awaited=True),
        seen(last_s=0, images=2, expected=2, sending=Sending.OPEN),
    ],
)
def test_what_is_not_proved_waits(evidence: Evidence) -> None:
    assert isinstance(decide(evidence), Wait)


def test_what_the_modality_lists_counts_more_than_what_an_archive_counts() -> None:
    assert isinstance(decide(seen(last_s=0, steps=(DONE,), performed=Listed(2), images=2, expected=9)), Complete)


STORAGE_CLASSES = {
    uid: name
    for uid, (name, kind, _info, retired, _keyword) in UID_dictionary.items()
    if kind == "SOP Class" and uid.startswith("1.2.840.10008.5.1.4.1.1.") and not retired
}
"""PS3.6 table A-1, as pydicom has it: where names end in `Image Storage` the objects are images."""


def test_classes_that_are_named_image_storage_hold_images_and_others_of_known_kinds_do_not() -> None:
    named = {uid for uid, name in STORAGE_CLASSES.items() if "Image Storage" in name}
    kinds = re.compile(r"SR Storage|Presentation State|Waveform|Segmentation|Encapsulated|Raw Data|Mapping|Plan|Report")
    others = {uid for uid, name in STORAGE_CLASSES.items() if kinds.search(name) and "DICOS" not in name} - named
    assert len(named) > 60
    assert len(others) > 50
    assert [STORAGE_CLASSES[uid] for uid in named if not holds_images(uid)] == []
    assert [STORAGE_CLASSES[uid] for uid in others if holds_images(uid)] == []
    assert holds_images("1.3.12.2.1107.5.9.1"), "a vendor's own class may hold images"


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
