"""The first rule that takes an image decides; otherwise the reason says what was there."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilum.domain.inference import InferenceRequest, Lane, Task, TaskKind
from hilum.domain.routing import NotApplicable, Rule, route
from hilum.domain.study import Instance, OrderPriority, Series, StudyRevision

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
CHEST = Rule(
    name="chest radiograph",
    modalities=("CR", "DX"),
    body_parts=("CHEST", "THORAX"),
    description_words=("chest", "cxr"),
    exclude_words=("lateral",),
    tasks=(Task(TaskKind.LOCATE), Task(TaskKind.REPORT)),
    lane=None,
    max_images=4,
)
ANYTHING = replace(CHEST, name="anything", modalities=(), body_parts=(), description_words=(), exclude_words=())


def instance(number: int | None = 1, **changes: Any) -> Instance:
    made = Instance(
        sop_instance_uid=f"1.2.3.{number or 0}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        uri=f"spool:{number}",
        sha256="ab" * 32,
        rows=100,
        columns=80,
        frames=1,
        instance_number=number,
    )
    return replace(made, **changes)


def series(
    *instances: Instance, modality: str = "CR", body_part: str = "CHEST", description: str = "", uid: str = "1.2.3"
) -> Series:
    return Series(uid, modality, body_part, description, instances or (instance(),))


def study(*members: Series, description: str = "", priority: OrderPriority = OrderPriority.ROUTINE) -> StudyRevision:
    return StudyRevision("1.2", 3, members or (series(),), description, priority, NOW - timedelta(5), NOW, "no image")


def requested(revision: StudyRevision, *rules: Rule) -> InferenceRequest:
    decision = route(revision, rules or (CHEST,), now=NOW)
    assert isinstance(decision, InferenceRequest), decision
    return decision


def refused(revision: StudyRevision, *rules: Rule) -> str:
    decision = route(revision, rules or (CHEST,), now=NOW)
    assert isinstance(decision, NotApplicable), decision
    return decision.reason


def test_a_matching_study_is_requested_with_the_rules_tasks_and_the_revisions_identity() -> None:
    request = requested(study())
    assert (request.study_instance_uid, request.revision, request.rule) == ("1.2", 3, "chest radiograph")
    assert request.tasks == CHEST.tasks
    assert (request.last_received_at, request.requested_at) == (NOW - timedelta(5), NOW)


@pytest.mark.parametrize("priority", list(OrderPriority))
def test_without_a_lane_of_its_own_a_rule_follows_the_order(priority: OrderPriority) -> None:
    assert requested(study(priority=priority)).lane is Lane(priority.value)
    assert requested(study(priority=priority), replace(CHEST, lane=Lane.STAT)).lane is Lane.STAT


def test_the_first_rule_that_takes_an_image_decides() -> None:
    assert requested(study(), CHEST, ANYTHING).rule == "chest radiograph"
    assert requested(study(series(modality="MR")), CHEST, ANYTHING).rule == "anything"


def test_a_wrong_modality_is_named_with_the_rule() -> None:
    assert refused(study(series(modality="CT"))) == "modality CT is not CR/DX (rule 'chest radiograph')"
    assert refused(study(series(modality=""))).startswith("modality unknown is not CR/DX")


def test_the_body_part_decides_where_there_is_one_and_the_description_where_not() -> None:
    assert "body part HAND" in refused(study(series(body_part="HAND", description="chest")))
    assert requested(study(series(body_part="", description="CXR pa")))
    assert requested(study(series(body_part=""), description="Chest, two views"))
    assert "names none of chest/cxr" in refused(study(series(body_part="", description="chestnut")))


def test_comparisons_ignore_case() -> None:
    assert requested(study(series(modality="cr", body_part="chest")))


def test_a_word_to_exclude_counts_whole_words_only() -> None:
    assert "description says 'lateral'" in refused(study(series(description="Chest LATERAL")))
    assert requested(study(series(description="contralateral comparison, chest")))


def test_a_series_without_pixels_is_no_image() -> None:
    empty = series(instance(rows=0, columns=0, frames=0))
    assert refused(study(empty)) == "no pixels in series of modality CR"
    assert refused(study(series(instance(rows=0, columns=0, frames=0), modality="SR"), series(modality="SR")))


def test_a_study_with_nothing_in_it_has_a_reason_too() -> None:
    nothing = replace(study(), series=())
    assert refused(nothing) == "the study has no image that a rule could match"
    assert route(study(), (), now=NOW) == NotApplicable("the study has no image that a rule could match")


def test_images_come_by_instance_number_those_without_one_last() -> None:
    images = (instance(3), instance(None), instance(1), instance(2))
    assert [i.uri for i in requested(study(series(*images))).images] == ["spool:1", "spool:2", "spool:3", "spool:None"]


def test_of_a_multi_frame_image_the_middle_frame_is_asked_about() -> None:
    for frames, middle in ((1, 1), (2, 1), (3, 2), (10, 5), (11, 6)):
        (image,) = requested(study(series(instance(frames=frames)))).images
        assert (image.frame, image.frames) == (middle, frames)


def test_images_for_processing_are_taken_only_when_there_is_no_other() -> None:
    raw, shown = instance(1, presentation_intent="FOR PROCESSING"), instance(2, presentation_intent="FOR PRESENTATION")
    assert [i.uri for i in requested(study(series(raw, shown))).images] == ["spool:2"]
    assert [i.uri for i in requested(study(series(raw))).images] == ["spool:1"]


WORDS = st.sampled_from(["", "CR", "DX", "CT", "SR", "CHEST", "HAND", "chest", "lateral", "cxr (2)", "[", "\\"])
INSTANCES = st.builds(
    instance,
    st.none() | st.integers(-5, 50),
    rows=st.integers(0, 2),
    columns=st.integers(0, 2),
    frames=st.integers(0, 40),
    presentation_intent=st.sampled_from(["", "FOR PROCESSING", "FOR PRESENTATION"]),
)
SERIES = st.builds(
    Series, st.just("1.2.3"), WORDS, WORDS, WORDS, st.lists(INSTANCES, max_size=5, unique_by=lambda i: i.uri).map(tuple)
)
RULES = st.builds(
    Rule,
    name=st.just("r"),
    modalities=st.lists(WORDS, max_size=2).map(tuple),
    body_parts=st.lists(WORDS, max_size=2).map(tuple),
    description_words=st.lists(WORDS, max_size=2).map(tuple),
    exclude_words=st.lists(WORDS.filter(bool), max_size=2).map(tuple),
    tasks=st.just(CHEST.tasks),
    lane=st.none() | st.sampled_from(Lane),
    max_images=st.integers(1, 4),
)


@given(st.lists(SERIES, max_size=4).map(tuple), WORDS, st.lists(RULES, max_size=3))
def test_every_study_ends_in_a_request_that_can_be_answered_or_in_a_reason(
    members: tuple[Series, ...], description: str, rules: list[Rule]
) -> None:
    revision = replace(study(description=description), series=members)
    decision = route(revision, rules, now=NOW)
    if isinstance(decision, NotApplicable):
        assert decision.reason
        return
    assert 1 <= len(decision.images) <= max(rule.max_images for rule in rules)
    assert all(i.rows > 0 and i.columns > 0 and 1 <= i.frame <= i.frames for i in decision.images)
    assert route(revision, rules, now=NOW) == decision
