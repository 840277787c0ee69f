"""The parser of MedMO's answers, and the confidence of a box."""

from __future__ import annotations

import math
import time
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilum_medmo import Generation, Timings, Token
from hilum_medmo.grounding import (
    MAX_BOXES,
    MAX_LABELS,
    GrammarError,
    GridBox,
    GroundedLabel,
    Reason,
    format_answer,
    parse,
    score,
)
from hilum_medmo.testing import answer

PUBLISHED = "Fractures <box>[[156, 516, 231, 607], [240, 529, 296, 581]]</box>"


def test_the_published_example_is_read() -> None:
    (item,) = parse(PUBLISHED)
    assert item == GroundedLabel("Fractures", (GridBox(156, 516, 231, 607), GridBox(240, 529, 296, 581)))
    assert PUBLISHED[item.start : item.label_end] == "Fractures"
    assert PUBLISHED[item.start : item.open_end] == "Fractures <box>"
    assert PUBLISHED[item.boxes[1].start : item.boxes[1].end] == "[240, 529, 296, 581]"
    assert item.end == len(PUBLISHED)


@pytest.mark.parametrize("joiner", [", ", ",", "; ", ";", "\n", ". ", ",\n", " \n\n ", ".\n"])
def test_labels_are_joined_by_comma_semicolon_period_or_newline(joiner: str) -> None:
    found = parse(f"Nodule <box>[[1,2,3,4]]</box>{joiner}Pleural effusion<box> [ [0, 0, 1000, 1000] ] </box>")
    assert [item.label for item in found] == ["Nodule", "Pleural effusion"]


@pytest.mark.parametrize("end", ["", ".", " .\n", "\n", "  "])
def test_an_answer_may_end_with_a_period(end: str) -> None:
    assert len(parse(PUBLISHED + end)) == 1


@pytest.mark.parametrize("text", ["", "  \n", "No finding", "no finding.", " NO FINDING .\n"])
def test_an_empty_answer_and_the_declared_text_mean_no_finding(text: str) -> None:
    assert parse(text, no_finding=("No finding",)) == ()


def test_a_no_finding_text_that_nobody_declared_is_rejected() -> None:
    with pytest.raises(GrammarError, match="box missing at character 10"):
        parse("No finding")


@pytest.mark.parametrize(
    ("text", "reason", "offset"),
    [
        ("<box>[[1, 2, 3, 4]]</box>", "label missing", 0),
        (f"{PUBLISHED}, ", "label missing", 67),
        (f"{PUBLISHED}; , Nodule <box>[[1, 2, 3, 4]]</box>", "label missing", 67),
        (f"{PUBLISHED} Nodule <box>[[1, 2, 3, 4]]</box>", "joiner expected", 65),
        ("Nodule", "box missing", 6),
        ("Nodule, Mass <box>[[1, 2, 3, 4]]</box>", "box missing", 6),
        ("Nodule </box>", "unexpected tag", 7),
        ("Nodule <script>[[1, 2, 3, 4]]</script>", "unexpected tag", 7),
        ("Nodule <BOX>[[1, 2, 3, 4]]</BOX>", "unexpected tag", 7),
        ("Nodule <box>[[1, 2, 3, 4]]", "tag not closed", 26),
        ("Nodule <box>[[1, 2, 3, 4]]<box>", "tag not closed", 26),
        ("Nodule <box>[1, 2, 3, 4]</box>", "bracket expected", 13),
        ("Nodule <box>[[1, 2, 3, 4]</box>", "joiner expected", 25),
        ("Nodule <box>[[[1, 2, 3, 4]]]</box>", "nested too deep", 14),
        ("Nodule <box>[]</box>", "bracket expected", 13),
        ("Nodule <box></box>", "bracket expected", 12),
        ("Nodule <box>[[1, 2, 3, four]]</box>", "number expected", 23),
        ("Nodule <box>[[1, 2, 3, -4]]</box>", "number expected", 23),
        ("Nodule <box>[[1, 2, 3, 4.5]]</box>", "number expected", 23),
        ("Nodule <box>[[1, 2, 3, 1e2]]</box>", "number expected", 23),
        ("Nodule <box>[[1, 2, 3, 007]]</box>", "number expected", 23),
        ("Nodule <box>[[1, 2, 3, ٤]]</box>", "number expected", 23),
        ("Nodule <box>[[1, 2, 3, 1001]]</box>", "coordinate out of range", 23),
        ("Nodule <box>[[1, 2, 3, 99999999999]]</box>", "coordinate out of range", 23),
        ("Nodule <box>[[1, 2, 3]]</box>", "four coordinates expected", 21),
        ("Nodule <box>[[1, 2, 3, 4, 5]]</box>", "four coordinates expected", 24),
        ("Nodule <box>[[3, 2, 3, 4]]</box>", "box empty", 13),
        ("Nodule <box>[[1, 9, 3, 4]]</box>", "box empty", 13),
        ("12 <box>[[1, 2, 3, 4]]</box>", "label not plain text", 0),
        ("Nod\x07ule <box>[[1, 2, 3, 4]]</box>", "label not plain text", 3),
        ("Nod\u202eule <box>[[1, 2, 3, 4]]</box>", "label not plain text", 3),
        ("N" * 81 + " <box>[[1, 2, 3, 4]]</box>", "label too long", 80),
    ],
)
def test_everything_else_is_rejected_with_its_reason_and_place(text: str, reason: str, offset: int) -> None:
    with pytest.raises(GrammarError) as caught:
        parse(text)
    assert (caught.value.reason, caught.value.offset) == (reason, offset)


def test_more_boxes_than_an_image_can_have_are_rejected() -> None:
    boxes = ", ".join(["[1, 2, 3, 4]"] * (MAX_BOXES // 2 + 1))
    with pytest.raises(GrammarError, match="too many boxes"):
        parse(f"Nodule <box>[{boxes}]</box>, Mass <box>[{boxes}]</box>")


def test_more_labels_than_an_image_can_have_are_rejected() -> None:
    with pytest.raises(GrammarError, match="too many labels"):
        parse(", ".join(["Nodule <box>[[1, 2, 3, 4]]</box>"] * (MAX_LABELS + 1)))


@pytest.mark.parametrize(
    "text",
    [
        "A" * 100_000,
        "Nodule <box>" + "[" * 100_000,
        "Nodule <box>" + "[" * 16_000,
        " " * 16_000 + "x",
        PUBLISHED + " " * 16_000 + "x",
        PUBLISHED + "\n " * 8_000 + "x",
        "Nodule" + " " * 16_000 + "<",
        "Nodule <box>[[" + "1" * 16_000,
        "a," * 8_000,
    ],
)
def test_hostile_answers_are_rejected_fast(text: str) -> None:
    started = time.perf_counter()
    with pytest.raises(GrammarError):
        parse(text)
    assert time.perf_counter() - started < 0.5  # milliseconds; the room is for a busy machine


def attempt(text: str) -> tuple[tuple[GroundedLabel, ...], GrammarError | None]:
    try:
        return parse(text), None
    except GrammarError as error:
        return (), error


labels = st.from_regex(r"[A-Za-zÄß肺][A-Za-z0-9 '/()&+%:_-]{0,60}[a-z)]", fullmatch=True)
spans = st.integers(0, 999).flatmap(lambda low: st.tuples(st.just(low), st.integers(low + 1, 1000)))
boxes = st.builds(lambda x, y: GridBox(x[0], y[0], x[1], y[1]), spans, spans)
grounded = st.builds(GroundedLabel, labels, st.lists(boxes, min_size=1, max_size=6).map(tuple))


@settings(deadline=None)
@given(st.lists(grounded, max_size=6))
def test_what_is_formatted_is_parsed_back(found: list[GroundedLabel]) -> None:
    text = format_answer(found)
    read = parse(text)
    assert read == tuple(found)
    for item in read:
        assert text[item.start : item.label_end] == item.label
        assert text[item.label_end : item.open_end].strip() == "<box>"
        for box in item.boxes:
            assert text[box.start : box.end] == f"[{box.x1}, {box.y1}, {box.x2}, {box.y2}]"


@settings(deadline=None)
@given(st.text(alphabet="Nod <box>/[],0159.;\n", max_size=60))
def test_any_text_is_either_read_or_rejected_and_what_is_read_is_valid(text: str) -> None:
    found, error = attempt(text)
    if error is None:
        assert parse(format_answer(found)) == found
    else:
        assert 0 <= error.offset <= len(text)
        assert error.reason in get_args(Reason)


@settings(deadline=None)
@given(st.lists(grounded, min_size=1, max_size=4), st.data())
def test_a_cut_answer_never_passes_for_more_than_its_whole_items(
    found: list[GroundedLabel], data: st.DataObject
) -> None:
    text = format_answer(found)
    cut = data.draw(st.integers(1, len(text) - 1))
    read, _ = attempt(text[:cut])
    assert read == tuple(found[: len(read)])
    assert len(read) < len(found)


def spell(pieces: list[tuple[str, float]]) -> Generation:
    tokens, text = [], ""
    for number, (piece, probability) in enumerate(pieces):
        tokens.append(Token(number, piece, probability, len(text), len(text) + len(piece)))
        text += piece
    return Generation(text, tuple(tokens), "stop", Timings(0, 0, 0))


def test_confidence_is_label_product_times_geometric_mean_of_the_coordinates() -> None:
    digits = [("1", 0.9), ("0", 0.8), (", ", 0.1), ("20", 0.7), (", ", 0.1), ("30", 0.6), (", ", 0.1), ("40", 0.5)]
    said = spell([("Nod", 0.5), ("ule", 0.9), (" ", 0.2), ("<box>", 0.8), ("[[", 0.3), *digits, ("]]</box>", 0.3)])
    ((only,),) = score(said, parse(said.text))
    assert only.label_probability == pytest.approx(0.5 * 0.9 * 0.8)
    assert only.box_probability == pytest.approx((0.9 * 0.8 * 0.7 * 0.6 * 0.5) ** (1 / 5))
    assert only.confidence == pytest.approx(only.label_probability * only.box_probability)


def test_tokens_that_straddle_a_boundary_count_where_they_cover_a_character() -> None:
    said = spell([("Nodule <", 0.5), ("box>[[1", 0.9), ("0, 20", 0.8), (", 30, 40]]</box>", 0.7)])
    ((only,),) = score(said, parse(said.text))
    assert only.label_probability == pytest.approx(0.45)
    assert only.box_probability == pytest.approx((0.9 * 0.8 * 0.7) ** (1 / 3))


def test_scores_line_up_with_labels_and_boxes() -> None:
    said = answer(f"{PUBLISHED}, Nodule <box>[[1, 2, 3, 4]]</box>", probability=0.5)
    first, second = score(said, parse(said.text))
    assert [len(first), len(second)] == [2, 1]
    assert first[0].label_probability == pytest.approx(0.5 ** len("Fractures<box>"))
    assert math.isclose(second[0].box_probability, 0.5)


def test_scoring_an_answer_with_another_answers_spans_is_an_error() -> None:
    with pytest.raises(ValueError, match="do not cover"):
        score(answer("Nodule"), parse(PUBLISHED))
