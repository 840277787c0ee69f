"""MedMO's grounded answers, `Fractures <box>[[156, 516, 231, 607], [240, 529, 296, 581]]</box>`: parser and confidence.

Coordinates are whole numbers x1 y1 x2 y2 on Qwen3-VL's grid: 0 to 1000 across the *whole* image, origin top left, x to
the right, y down, independent of any resizing (arXiv 2602.06965; Qwen3-VL's grounding format).

The grammar, and nothing but it:

    answer := ws | no_finding | ws item (joiner item)* [ws "."] ws
    item   := label ws "<box>" ws "[" box ("," box)* "]" ws "</box>"
    box    := "[" number "," number "," number "," number "]"        spaces allowed around every sign
    joiner := ws ("," | ";" | ".") ws  |  ws newline ws
    number := 0 | 1-9 followed by up to three digits, at most 1000;  x1 < x2 and y1 < y2
    label  := 1 to 80 letters, digits, spaces and - ' / ( ) & + % : _, at least one letter

The model is not trusted: what does not match is rejected with a reason and the character it was found at, in time
linear in the length of the text.

Confidence of a box (`score`):

    label_probability = Π p(token)        over the tokens that cover the label's text and its opening `<box>`
    box_probability   = (Π p(token))^1/n  over the n tokens that cover a digit of the box's four coordinates
    confidence        = label_probability · box_probability

The first says how sure the model was that this finding exists at all, here in the list; a box is many tokens, of which
each may be off by a grid unit without harm, so their geometric mean is taken instead of a product that would only
measure the number of digits. Tokens are found by their character spans, so the figures mean the same for every
tokenizer. They are not calibrated: thresholds belong to a model version (`ModelIdentity.thresholds`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from hilum_medmo.model import Generation, Token

GRID = 1000
"""The grid's last coordinate: 0 is the image's left or top edge, 1000 its right or bottom edge."""
MAX_ANSWER_CHARS = 16_384
MAX_LABEL_CHARS = 80
MAX_LABELS = 64
MAX_BOXES = 128
"""Boxes in one answer, all labels together."""

Reason: TypeAlias = Literal[
    "answer too long",
    "label missing",
    "label too long",
    "label not plain text",
    "box missing",
    "tag not closed",
    "unexpected tag",
    "bracket expected",
    "nested too deep",
    "number expected",
    "coordinate out of range",
    "four coordinates expected",
    "box empty",
    "too many boxes",
    "too many labels",
    "joiner expected",
]


class GrammarError(ValueError):
    """The answer is not in MedMO's grammar.

    Attributes:
        reason: one of `Reason`.
        offset: index of the character in the answer where it stopped matching.
    """

    def __init__(self, reason: Reason, offset: int, detail: str = "") -> None:
        super().__init__(f"{reason} at character {offset}" + (f": {detail}" if detail else ""))
        self.reason: Reason = reason
        self.offset = offset


@dataclass(frozen=True, slots=True)
class GridBox:
    """A box on the 0-1000 grid, edges included, x1 < x2, y1 < y2; `start`, `end`: where the answer says so."""

    x1: int
    y1: int
    x2: int
    y2: int
    start: int = field(default=0, compare=False)
    end: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class GroundedLabel:
    """One label with one or more boxes.

    Attributes:
        label: as the model wrote it, without surrounding spaces.
        boxes: in the model's order.
        start, end: the whole item in the answer, from the label's first character to behind `</box>`.
        label_end: behind the label's last character.
        open_end: behind the opening `<box>`.
    """

    label: str
    boxes: tuple[GridBox, ...]
    start: int = field(default=0, compare=False)
    end: int = field(default=0, compare=False)
    label_end: int = field(default=0, compare=False)
    open_end: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class BoxScore:
    """Probabilities, 0 to 1, behind one box; see the module's text."""

    label_probability: float
    box_probability: float

    @property
    def confidence(self) -> float:
        """How much the model believes in this finding at this place."""
        return self.label_probability * self.box_probability


_SPACE = re.compile(r"[ \t\r\n]*")
_JOINER = re.compile(r"[ \t\r\n]*[,;.][ \t\r\n]*|[ \t\r]*\n[ \t\r\n]*")
_END = re.compile(r"[ \t\r\n]*(?:\.[ \t\r\n]*)?\Z")
_LABEL = re.compile(r"[^<>\[\]\n,;.]*")
_NUMBER = re.compile(r"-?[0-9][0-9.eE+-]{0,15}")
_OPEN, _CLOSE = "<box>", "</box>"
_LABEL_SIGNS = frozenset(" -'/()&+%:_")


def parse(text: str, *, no_finding: tuple[str, ...] = ()) -> tuple[GroundedLabel, ...]:
    """Read a grounded answer.

    Args:
        text: the whole answer.
        no_finding: answers that mean "nothing found" (from `ModelIdentity.no_finding`), compared without regard to
            case, surrounding spaces and one closing period. The empty answer always means it.

    Returns:
        The labels in the model's order; empty for "no finding".

    Raises:
        GrammarError: the text is anything else. An answer cut by `max_new_tokens` is one too: half a list of
            findings must never pass for the whole.
    """
    if len(text) > MAX_ANSWER_CHARS:
        raise GrammarError("answer too long", MAX_ANSWER_CHARS, f"{len(text)} characters")
    if not text.strip() or _plain(text) in {_plain(answer) for answer in no_finding}:
        return ()
    labels: list[GroundedLabel] = []
    boxes = 0
    at = _skip(text, 0)
    while True:
        item = _item(text, at, MAX_BOXES - boxes)
        boxes += len(item.boxes)
        labels.append(item)
        if _END.match(text, item.end):
            return tuple(labels)
        joiner = _JOINER.match(text, item.end)
        if joiner is None:
            raise GrammarError("joiner expected", item.end)
        at = joiner.end()
        if len(labels) == MAX_LABELS:
            raise GrammarError("too many labels", at, f"more than {MAX_LABELS}")


def format_answer(labels: Sequence[GroundedLabel]) -> str:
    """The answer in MedMO's own spelling; `parse(format_answer(labels)) == tuple(labels)` for valid labels."""
    return ", ".join(
        f"{item.label} {_OPEN}[{', '.join(f'[{b.x1}, {b.y1}, {b.x2}, {b.y2}]' for b in item.boxes)}]{_CLOSE}"
        for item in labels
    )


def score(generation: Generation, grounded: Sequence[GroundedLabel]) -> tuple[tuple[BoxScore, ...], ...]:
    """Confidence of every box of `parse(generation.text)`: one tuple per label, one `BoxScore` per box.

    Raises:
        ValueError: the spans of `grounded` are not covered by the generation's tokens: they are of another answer.
    """
    text, tokens = generation.text, generation.tokens
    if any(item.end > len(text) for item in grounded):
        raise ValueError("the generation's tokens do not cover this answer")
    scores: list[tuple[BoxScore, ...]] = []
    for item in grounded:
        named = _probabilities(tokens, _without_spaces(text, item.start, item.open_end))
        label_probability = math.prod(named)
        boxes: list[BoxScore] = []
        for box in item.boxes:
            digits = [at for at in range(box.start, box.end) if text[at].isdigit()]
            said = _probabilities(tokens, digits)
            box_probability = math.prod(p ** (1.0 / len(said)) for p in said)
            boxes.append(BoxScore(label_probability, box_probability))
        scores.append(tuple(boxes))
    return tuple(scores)


def _plain(text: str) -> str:
    return text.strip().removesuffix(".").rstrip().casefold()


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _item(text: str, at: int, boxes_left: int) -> GroundedLabel:
    label, label_end = _label(text, at)
    tag = _skip(text, label_end)
    if not text.startswith(_OPEN, tag):
        raise GrammarError("unexpected tag" if text.startswith("<", tag) else "box missing", tag)
    open_end = tag + len(_OPEN)
    boxes, after = _boxes(text, open_end, boxes_left)
    close = _skip(text, after)
    if not text.startswith(_CLOSE, close):
        raise GrammarError("tag not closed", close)
    return GroundedLabel(label, boxes, at, close + len(_CLOSE), label_end, open_end)


def _label(text: str, at: int) -> tuple[str, int]:
    match = _LABEL.match(text, at)
    raw = match.group() if match else ""
    label = raw.rstrip()
    if not label:
        raise GrammarError("label missing", at)
    if len(label) > MAX_LABEL_CHARS:
        raise GrammarError("label too long", at + MAX_LABEL_CHARS, f"{len(label)} characters")
    for offset, character in enumerate(label):
        if not character.isalnum() and character not in _LABEL_SIGNS:
            raise GrammarError("label not plain text", at + offset, repr(character))
    if not any(character.isalpha() for character in label):
        raise GrammarError("label not plain text", at, "no letter in it")
    return label, at + len(label)


def _boxes(text: str, at: int, boxes_left: int) -> tuple[tuple[GridBox, ...], int]:
    at = _sign(text, at, "[")
    boxes: list[GridBox] = []
    while True:
        if len(boxes) == boxes_left:
            raise GrammarError("too many boxes", at, f"more than {MAX_BOXES} in one answer")
        box = _box(text, _skip(text, at))
        boxes.append(box)
        at = _skip(text, box.end)
        if text.startswith("]", at):
            return tuple(boxes), at + 1
        at = _sign(text, at, ",")


def _box(text: str, start: int) -> GridBox:
    at = _sign(text, start, "[")
    if text.startswith("[", _skip(text, at)):
        raise GrammarError("nested too deep", _skip(text, at))
    numbers: list[int] = []
    while True:
        number, at = _number(text, _skip(text, at))
        numbers.append(number)
        at = _skip(text, at)
        if text.startswith("]", at) or len(numbers) == 4:
            break
        at = _sign(text, at, ",")
    if len(numbers) != 4 or text.startswith(",", at):
        raise GrammarError("four coordinates expected", at)
    end = _sign(text, at, "]")
    x1, y1, x2, y2 = numbers
    if x1 >= x2 or y1 >= y2:
        raise GrammarError("box empty", start, f"[{x1}, {y1}, {x2}, {y2}]")
    return GridBox(x1, y1, x2, y2, start, end)


def _number(text: str, at: int) -> tuple[int, int]:
    match = _NUMBER.match(text, at)
    digits = match.group() if match else ""
    if not digits.isdigit() or (len(digits) > 1 and digits[0] == "0"):
        # "-3", "1.5", "1e3", "007" and words alike: a whole number in plain digits is the only spelling.
        raise GrammarError("number expected", at)
    if len(digits) > 4 or int(digits) > GRID:
        raise GrammarError("coordinate out of range", at, f"above {GRID}")
    return int(digits), at + len(digits)


def _sign(text: str, at: int, sign: str) -> int:
    at = _skip(text, at)
    if not text.startswith(sign, at):
        raise GrammarError("bracket expected" if sign in "[]" else "joiner expected", at, f"{sign!r} expected")
    return at + 1


def _without_spaces(text: str, start: int, end: int) -> list[int]:
    return [at for at in range(start, end) if not text[at].isspace()]


def _probabilities(tokens: Sequence[Token], characters: Sequence[int]) -> list[float]:
    """Probabilities of the tokens that cover at least one of `characters` (ascending), each token once."""
    wanted = set(characters)
    covered: set[int] = set()
    found: list[float] = []
    if characters:
        for token in tokens:
            if token.start > characters[-1] or token.end <= characters[0]:
                continue
            hit = wanted.intersection(range(token.start, token.end))
            if hit:
                covered |= hit
                found.append(token.probability)
    if not wanted or covered != wanted:
        raise ValueError("the generation's tokens do not cover this answer")
    return found
