"""The first rule that takes an image decides; otherwise the reason says what was there."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilum.domain.inference import InferenceRequest, Lane, Task, TaskKind
from hilum.domain.routing import NotApplicable, Routed, Rule, body_parts_of, route, rule_of
from hilum.domain.study import Instance, OrderPriority, PriorStudy, Series, StudyRevision

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


def routed(revision: StudyRevision, *rules: Rule) -> Routed:
    decision = route(revision, rules or (CHEST,), now=NOW)
    assert isinstance(decision, Routed), decision
    return decision


def requested(revision: StudyRevision, *rules: Rule) -> InferenceRequest:
    return routed(revision, *rules).request


def uris(revision: StudyRevision, *rules: Rule) -> list[str]:
    return [image.uri for image in requested(revision, *rules).images]


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


RAW = {"presentation_intent": "FOR PROCESSING"}
LATERAL_VIEWS = ("LL", "RL", "LATERAL", "lateral", "LAT", "LEFT LATERAL", "L LAT")
VIEWS_TO_READ = ("", "PA", "AP", "LLO", "RLD", "LEFT LATERAL DEC")


def test_images_for_processing_are_left_out_also_when_they_are_a_series_of_their_own() -> None:
    raw, shown = instance(1, **RAW), instance(2, presentation_intent="FOR PRESENTATION")
    for revision in (study(series(raw, shown)), study(series(raw, uid="1.1"), series(shown, uid="1.2"))):
        assert uris(revision) == ["spool:2"]
        assert routed(revision).reason == ("rule 'chest radiograph' takes 1 image; left out: 1 image FOR PROCESSING")


@pytest.mark.parametrize("raw", [RAW, {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.1.1.1"}])
def test_raw_detector_data_alone_is_no_input_for_a_model(raw: dict[str, Any]) -> None:
    revision = study(series(instance(1, **raw), instance(2, **raw)))
    assert refused(revision) == "nothing but 2 images FOR PROCESSING (rule 'chest radiograph')"


@pytest.mark.parametrize("view", LATERAL_VIEWS)
def test_a_lateral_view_beside_a_frontal_one_is_left_out_whatever_its_series_is_called(view: str) -> None:
    frontal, lateral = instance(2, view_position="PA"), instance(1, view_position=view)
    for rule in (CHEST, ANYTHING):
        for revision in (study(series(lateral, frontal)), study(series(lateral, uid="1.1"), series(frontal))):
            assert uris(revision, rule) == ["spool:2"]
            assert routed(revision, rule).reason == f"rule '{rule.name}' takes 1 image; left out: 1 lateral view"


def test_lateral_views_alone_are_taken_only_by_a_rule_that_does_not_exclude_the_word() -> None:
    lateral = study(series(instance(1, view_position="LL")))
    assert refused(lateral) == "nothing but 1 lateral view (rule 'chest radiograph')"
    assert uris(lateral, ANYTHING) == ["spool:1"]


@pytest.mark.parametrize("view", VIEWS_TO_READ)
def test_other_views_are_not_taken_for_lateral_ones(view: str) -> None:
    assert uris(study(series(instance(1, view_position=view)))) == ["spool:1"]


def test_a_lateral_view_for_presentation_does_not_stand_in_for_a_raw_frontal_one() -> None:
    raw, lateral = instance(1, view_position="PA", **RAW), instance(2, view_position="LL")
    assert refused(study(series(raw, lateral))) == (
        "nothing but 1 image FOR PROCESSING, 1 lateral view (rule 'chest radiograph')"
    )


def test_a_study_described_as_frontal_and_lateral_keeps_its_frontal_image_when_the_images_say_which_is_which() -> None:
    frontal, lateral = instance(1, view_position="PA"), instance(2, view_position="LL")
    assert uris(study(series(frontal), series(lateral), description="Chest PA and lateral")) == ["spool:1"]
    unknown = study(series(instance(1)), description="Chest PA and lateral")
    assert "description says 'lateral'" in refused(unknown)


def test_images_past_the_limit_are_named_in_the_reason() -> None:
    many = study(series(*(instance(n) for n in range(6))))
    assert routed(many).reason == "rule 'chest radiograph' takes 4 images; left out: 2 images past the limit of 4"


WORDS = st.sampled_from(["", "CR", "DX", "CT", "SR", "CHEST", "HAND", "chest", "lateral", "cxr (2)", "[", "\\"])
INSTANCES = st.builds(
    instance,
    st.none() | st.integers(-5, 50),
    rows=st.integers(0, 2),
    columns=st.integers(0, 2),
    frames=st.integers(0, 40),
    presentation_intent=st.sampled_from(["", "FOR PROCESSING", "FOR PRESENTATION"]),
    view_position=st.sampled_from([*VIEWS_TO_READ, *LATERAL_VIEWS]),
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
    images = decision.request.images
    assert decision.reason
    assert 1 <= len(images) <= max(rule.max_images for rule in rules)
    assert all(i.rows > 0 and i.columns > 0 and 1 <= i.frame <= i.frames for i in images)
    assert route(revision, rules, now=NOW) == decision


@st.composite
def split(draw: st.DrawFn) -> tuple[tuple[Instance, ...], tuple[Series, ...], bool]:
    """Images with distinct numbers, the same in some number of series, and whether the rule excludes laterals."""
    numbers = draw(st.lists(st.integers(0, 99), min_size=1, max_size=8, unique=True))
    made = tuple(
        instance(
            number,
            presentation_intent=draw(st.sampled_from(["", "FOR PROCESSING", "FOR PRESENTATION"])),
            view_position=draw(st.sampled_from([*VIEWS_TO_READ, *LATERAL_VIEWS])),
        )
        for number in numbers
    )
    homes = [draw(st.integers(0, 3)) for _ in made]
    members = tuple(
        series(*(i for i, home in zip(made, homes, strict=True) if home == number), uid=f"1.2.{number}")
        for number in sorted(set(homes))
    )
    return made, members, draw(st.booleans())


@given(split())
def test_which_images_the_model_sees_does_not_depend_on_how_they_are_spread_over_series(
    made: tuple[tuple[Instance, ...], tuple[Series, ...], bool],
) -> None:
    images, members, excluding = made
    rule = replace(CHEST if excluding else ANYTHING, max_images=32)

    def seen(revision: StudyRevision) -> set[str]:
        decision = route(revision, (rule,), now=NOW)
        return {i.uri for i in decision.request.images} if isinstance(decision, Routed) else set()

    spread = seen(study(*members))
    assert spread == seen(study(series(*images)))
    by_uri = {image.uri: image for image in images}
    chosen = [by_uri[uri] for uri in spread]
    assert all(image.presentation_intent != "FOR PROCESSING" for image in chosen)
    frontal = [i for i in images if i.presentation_intent != "FOR PROCESSING" and i.view_position in VIEWS_TO_READ]
    assert {image.uri for image in frontal} <= spread
    if frontal or excluding:
        assert all(image.view_position in VIEWS_TO_READ for image in chosen)


@pytest.mark.parametrize(
    "word", ["__import__('os').system('true')", "(a+)+$", ".*", "{0.__class__}", "$(id)", "%n%n", "chest'; --"]
)
def test_a_rule_is_text_to_compare_and_never_evaluated(word: str) -> None:
    rule = replace(CHEST, body_parts=(), description_words=(word,), name=word)
    plain = series(body_part="", description="a" * 60 + "!")
    assert isinstance(route(study(plain), [rule], now=NOW), NotApplicable)
    assert isinstance(route(study(replace(plain, description=f"x {word} y")), [rule], now=NOW), Routed)


def test_of_an_earlier_study_the_request_names_what_the_rule_would_take_of_a_new_one() -> None:
    lateral = instance(2, view_position="LL", uri="spool:old-lateral")
    fits = PriorStudy("1.2.9", "20251103", (series(instance(1, uri="spool:old"), lateral),))
    other = PriorStudy("1.2.8", "20241103", (series(instance(), body_part="FOOT"),))
    request = requested(replace(study(), priors=(fits, other)))
    assert [(prior.study_instance_uid, prior.study_date) for prior in request.priors] == [("1.2.9", "20251103")]
    assert [image.uri for image in request.priors[0].images] == ["spool:old"]
    assert request.request_id == requested(study()).request_id, "one request for each revision, with priors or without"


def test_the_rule_that_would_be_applied_says_what_an_earlier_study_has_to_share() -> None:
    foot = series(instance(), body_part="FOOT", uid="1.2.4")
    assert rule_of(study(series(), foot), (CHEST, ANYTHING)) is CHEST
    assert rule_of(study(foot), (CHEST, ANYTHING)) is ANYTHING
    assert rule_of(study(foot), (CHEST,)) is None
    assert body_parts_of(study(series(body_part="Chest"), foot), CHEST) == (frozenset({"CR"}), frozenset({"CHEST"}))
    described = series(body_part="", description="chest pa")
    assert body_parts_of(study(described), CHEST) == (frozenset({"CR"}), frozenset())
