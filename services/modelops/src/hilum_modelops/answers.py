"""What MedMO-Nano is asked and what it answers: one place for prompts, answer format and report wording.

Locating: `Label <box>[[x1, y1, x2, y2], ...]</box>`, labels in the order of LABELS, joined by ", ", boxes of one label
top to bottom in one list; integers on the 0-1000 grid relative to the whole image. Nothing found: NO_FINDING.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from hilum_modelops.generator import LABELS, Finding
from hilum_modelops.generator.labels import CARDIOMEGALY, CONSOLIDATION, EFFUSION, FRACTURE, NODULE, PNEUMOTHORAX

LOCATE: Final = "Detect and localize all abnormalities in this image."
REPORT: Final = "Generate a detailed radiology report for this chest X-ray."
NO_FINDING: Final = "No abnormality detected."
LOCATE_PHRASES: Final = (
    LOCATE, LOCATE, LOCATE, "Detect and localize all abnormalities in this chest X-ray.",
    "Find and localize all abnormalities in this image.", "Locate every abnormality in this image.",
)  # fmt: skip
REPORT_PHRASES: Final = (
    REPORT, REPORT, REPORT, "Generate a detailed radiology report for this image.",
    "Write a radiology report for this chest X-ray.", "Generate a radiology report.",
)  # fmt: skip
NAMES: Final = {
    PNEUMOTHORAX: ("pneumothorax", "a pneumothorax", "collapsed lung"),
    EFFUSION: ("pleural effusion", "a pleural effusion", "an effusion", "fluid in the pleural space"),
    CONSOLIDATION: ("consolidation", "a consolidation", "an opacity", "pneumonia"),
    NODULE: ("nodule", "a nodule", "a lung nodule", "a pulmonary nodule"),
    CARDIOMEGALY: ("cardiomegaly", "an enlarged heart"),
    FRACTURE: ("fracture", "a fracture", "a rib fracture", "a broken rib"),
}
_COUNTS = ("None.", "One.", "Two.", "Three.", "Four.")


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Findings in the order in which LOCATE's answer lists them."""
    return sorted(findings, key=lambda f: (LABELS.index(f.label), f.box[1], f.box[0]))


def locate_answer(findings: Sequence[Finding]) -> str:
    """The answer to LOCATE; boxes are on the 0-1000 grid."""
    parts = []
    ordered = in_order(findings)
    for label in LABELS:
        boxes = [f.box for f in ordered if f.label == label]
        if boxes:
            lists = ", ".join("[" + ", ".join(str(grid_value(v)) for v in box) + "]" for box in boxes)
            parts.append(f"{label} <box>[{lists}]</box>")
    return ", ".join(parts) if parts else NO_FINDING


def grid_value(value: float) -> int:
    """A coordinate as written: a whole number, 0 to 999."""
    return int(min(999, max(0, round(value))))


def _places(findings: Sequence[Finding], label: str) -> list[str]:
    return [f"{f.side} {f.zone} zone" for f in findings if f.label == label]


def _sides(findings: Sequence[Finding], label: str) -> set[str]:
    return {f.side for f in findings if f.label == label}


def report(findings: Sequence[Finding]) -> str:
    """A report in fixed wording: lungs, pleura, heart, bones, then the impression."""
    text, ends = [], []
    for label, single in ((CONSOLIDATION, "consolidation"), (NODULE, "a nodule")):
        places = _places(findings, label)
        if len(places) == 1:
            text.append(f"There is {single} in the {places[0]}.")
            ends.append(f"{label} in the {places[0]}.")
        elif places:
            text.append(f"There are two nodules, in the {places[0]} and the {places[1]}.")
            ends.append("Two nodules.")
    if not text:
        text.append("The lungs are clear.")
    for label, name in ((PNEUMOTHORAX, "pneumothorax"), (EFFUSION, "pleural effusion")):
        sides = sorted(_sides(findings, label))
        if sides:
            text.append(f"There is a {sides[0]} {name}.")
            ends.insert(0, f"{sides[0].capitalize()} {name}.")
        else:
            text.append(f"No {name}.")
    big, broken = any(f.label == CARDIOMEGALY for f in findings), sorted(_sides(findings, FRACTURE))
    text.append("The heart is enlarged." if big else "The heart size is normal.")
    text.append(f"There is a displaced {' and '.join(broken)} rib fracture." if broken else "The bones are intact.")
    ends.extend(["Cardiomegaly."] if big else [])
    ends.extend([f"{' and '.join(broken).capitalize()} rib fracture."] if broken else [])
    return "Findings: " + " ".join(text) + " Impression: " + (" ".join(ends) or "No acute abnormality.")


def presence_question(rng: np.random.Generator, label: str) -> str:
    """A yes/no question about a label in one of several phrasings."""
    if label == CARDIOMEGALY and rng.random() < 0.6:
        return str(rng.choice(("Is the heart enlarged?", "Is the heart too big?", "Is the heart size increased?")))
    name = str(rng.choice(NAMES[label]))
    form = str(rng.choice(("Is there {}?", "Is there {}?", "Does this image show {}?", "Do you see {}?",
                           "Is {} present?", "Is there {} in this image?")))  # fmt: skip
    return form.format(name)


def question(rng: np.random.Generator, findings: Sequence[Finding]) -> tuple[str, str]:
    """A short question about the image and its answer."""
    present = [label for label in LABELS if any(f.label == label for f in findings)]
    kind = rng.random()
    if kind < 0.62:
        ask_present = bool(present) and rng.random() < 0.5
        label = str(rng.choice(present if ask_present else LABELS))
        return presence_question(rng, label), "Yes." if label in present else "No."
    if kind < 0.72:
        asked = str(rng.choice(("What abnormalities are present?", "What abnormalities do you see?",
                                "What is wrong in this image?", "List the abnormalities.")))  # fmt: skip
        names = ", ".join(label if i == 0 else label.lower() for i, label in enumerate(present))
        return asked, f"{names}." if present else "None."
    if kind < 0.78:
        asked = str(rng.choice(("Is this chest X-ray normal?", "Is this image normal?")))
        return asked, "No." if present else "Yes."
    if kind < 0.92:
        sided = [label for label in present if label != CARDIOMEGALY]
        label = str(rng.choice(sided if sided and rng.random() < 0.85 else [x for x in LABELS if x != CARDIOMEGALY]))
        asked = str(rng.choice(("Which side is the {} on?", "On which side is the {}?", "Where is the {}?")))
        return _side_question(asked, label, findings)
    count = sum(f.label == NODULE for f in findings)
    return "How many nodules are there?", _COUNTS[min(count, 4)]


def _side_question(form: str, label: str, findings: Sequence[Finding]) -> tuple[str, str]:
    name = {EFFUSION: "effusion"}.get(label, label.lower())
    sides = _sides(findings, label)
    if not sides:
        return form.format(name), f"There is no {NAMES[label][0]}."
    if len(sides) > 1:
        return form.format(name), "Both sides."
    return form.format(name), f"The {min(sides)} side."
