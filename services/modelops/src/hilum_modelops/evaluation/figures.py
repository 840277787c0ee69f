"""From answers to the figures of the model card, and the thresholds from validation answers."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from hilum_modelops.evaluation import blobs
from hilum_modelops.evaluation.questioning import MEAN_SIDE, Answered
from hilum_modelops.evaluation.scoring import MATCH_IOU, Tally, match
from hilum_modelops.generator import LABELS, draw_shape, render
from hilum_modelops.generator.labels import CARDIOMEGALY, CONSOLIDATION, EFFUSION, FRACTURE, NODULE, PNEUMOTHORAX

Thresholds = dict[str, dict[str, float]]
_WORDS = {
    PNEUMOTHORAX: (" pneumothorax.", "no pneumothorax."), EFFUSION: (" pleural effusion.", "no pleural effusion."),
    CONSOLIDATION: ("consolidation", None), NODULE: ("nodule", None),
    CARDIOMEGALY: ("heart is enlarged", None), FRACTURE: ("rib fracture", None),
}  # fmt: skip


def located(results: Sequence[Answered], thresholds: Thresholds | None) -> Tally:
    """Counts located findings; with thresholds, those below `report` are dropped, as the product does."""
    tally = Tally()
    for result in results:
        tally.malformed += result.malformed
        kept = [
            (label, box) for label, box, confidence in result.said
            if thresholds is None or confidence >= thresholds.get(label, {"report": 0.0})["report"]
        ]  # fmt: skip
        tally.add(result.truth, kept)
    return tally


def calibrate(results: Sequence[Answered]) -> Thresholds:
    """Per label, from validation answers. report: the confidence from which on boxes are right at least half the time
    (each window of answers around it). urgent: from which on nine in ten are."""
    chosen: Thresholds = {}
    for label in LABELS:
        pairs: list[tuple[float, bool]] = []
        for result in results:
            said = [s for s in result.said if s[0] == label]
            truth = [t for t in result.truth if t[0] == label]
            right = {j for _, j, value in match(truth, [(s[0], s[1]) for s in said]) if value >= MATCH_IOU}
            pairs += [(s[2], j in right) for j, s in enumerate(said)]
        pairs.sort(reverse=True)
        chosen[label] = {"report": _lowest(pairs, 0.5, 0.03), "urgent": _lowest(pairs, 0.9, 0.12)}
    return chosen


def _lowest(pairs: list[tuple[float, bool]], precision: float, least: float) -> float:
    """The lowest confidence at which the nearest 15 answers below or at it are still right often enough."""
    if len(pairs) < 15:
        return 0.1 if precision < 0.9 else 0.25
    best = pairs[0][0]
    for end in range(15, len(pairs) + 1):
        window = pairs[end - 15 : end]
        if sum(ok for _, ok in window) / 15 < precision:
            break
        best = window[-1][0]
    return round(max(least, math.floor(best * 100) / 100), 2)


def baseline(results: Sequence[Answered], variant: str = "a") -> Tally:
    """The blob detector on the same images."""
    tally = Tally()
    for result in results:
        rows, cols = draw_shape(result.seed, MEAN_SIDE)
        tally.add(result.truth, blobs.detect(render(result.seed, variant=variant, rows=rows, cols=cols).pixels))
    return tally


def questions(results: Sequence[Answered]) -> dict[str, float | int]:
    """Accuracy of yes/no answers; sensitivity over present, specificity over absent findings."""
    asked = [a for r in results for a in r.asked]
    right = Counter(
        (present, (answer == "Yes.") == present and answer in ("Yes.", "No.")) for _, answer, present in asked
    )
    yes, no = right[True, True] + right[True, False], right[False, True] + right[False, False]
    return {
        "asked": len(asked),
        "accuracy": round((right[True, True] + right[False, True]) / max(1, len(asked)), 4),
        "sensitivity": round(right[True, True] / max(1, yes), 4),
        "specificity": round(right[False, True] / max(1, no), 4),
    }


def named_in(report: str) -> set[str]:
    """Labels that a report in the generator's wording says are present."""
    lower = report.lower()
    return {
        label for label, (word, denial) in _WORDS.items() if word in (lower.replace(denial, "") if denial else lower)
    }


def reports(results: Sequence[Answered]) -> dict[str, float | int]:
    """Whether a report names the labels that are there, those that the location answer names, and word for word."""
    told = [r for r in results if r.report]
    count = max(1, len(told))
    same_truth = sum(named_in(r.report) == {t[0] for t in r.truth} for r in told)
    same_said = sum(named_in(r.report) == {s[0] for s in r.said} for r in told)
    return {
        "reports": len(told), "labels_as_in_truth": round(same_truth / count, 4),
        "labels_as_located": round(same_said / count, 4),
        "word_for_word": round(sum(r.report == r.wanted_report for r in told) / count, 4),
    }  # fmt: skip


def difficulty(results: Sequence[Answered]) -> dict[str, dict[str, float]]:
    """Contrast (fraction of the density range; cardiothoracic ratio for the heart) and size (square root of the box's
    share of the image) of the true findings: 5th, 50th, 95th percentile."""
    table: dict[str, dict[str, float]] = {}
    for label in LABELS:
        contrast, size = [], []
        for result in results:
            for (name, box), value in zip(result.truth, result.contrasts, strict=True):
                if name == label:
                    contrast.append(value)
                    share = (box[2] - box[0]) * (box[3] - box[1]) / (result.shape[0] * result.shape[1])
                    size.append(math.sqrt(share))
        if contrast:
            for name, values in (("contrast", contrast), ("size", size)):
                row = table.setdefault(label, {})
                for percent in (5, 50, 95):
                    row[f"{name}_p{percent}"] = round(float(np.percentile(values, percent)), 3)
    return table
