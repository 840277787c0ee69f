"""Matching of boxes and the figures that come of it. Boxes of both sides are x1 y1 x2 y2 in one common frame."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from hilum_modelops.generator import LABELS
from hilum_modelops.generator.scene import Box

MATCH_IOU = 0.5
Labelled = tuple[str, Box]


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    shared = wide * high
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union


def match(truth: Sequence[Labelled], said: Sequence[Labelled]) -> list[tuple[int, int | None, float]]:
    """Greedy one-to-one matching within a label, best IoU first: (truth index, said index or None, IoU)."""
    pairs = sorted(
        ((iou(t[1], s[1]), i, j) for i, t in enumerate(truth) for j, s in enumerate(said) if t[0] == s[0]), reverse=True
    )
    taken: dict[int, tuple[int, float]] = {}
    used: set[int] = set()
    for value, i, j in pairs:
        if value > 0 and i not in taken and j not in used:
            taken[i] = (j, value)
            used.add(j)
    return [(i, *taken.get(i, (None, 0.0))) for i in range(len(truth))]


@dataclass(slots=True)
class Tally:
    """Counts over images; `add` each image once."""

    ious: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    said: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    normals: int = 0
    normals_with_box: int = 0
    images: int = 0
    malformed: int = 0

    def add(self, truth: Sequence[Labelled], said: Sequence[Labelled]) -> None:
        """Counts one image."""
        self.images += 1
        if not truth:
            self.normals += 1
            self.normals_with_box += bool(said)
        for i, _, value in match(truth, said):
            self.ious[truth[i][0]].append(value)
        for label, _ in said:
            self.said[label] += 1

    def figures(self) -> dict[str, object]:
        """Everything for the card, rounded."""
        every = [v for values in self.ious.values() for v in values]
        hits = [v for v in every if v >= MATCH_IOU]
        boxes = sum(self.said.values())
        return {
            "images": self.images, "findings": len(every), "recall": _share(len(hits), len(every)),
            "precision": _share(len(hits), boxes), "mean_iou_matched": _share(sum(hits), len(hits)),
            "normals": self.normals, "false_positive_normals": _share(self.normals_with_box, self.normals),
            "malformed": self.malformed, "labels": {label: self._label(label) for label in LABELS},
        }  # fmt: skip

    def _label(self, label: str) -> dict[str, float | int]:
        values = self.ious.get(label, [])
        hits = [v for v in values if v >= MATCH_IOU]
        return {
            "findings": len(values), "recall": _share(len(hits), len(values)),
            "precision": _share(len(hits), self.said.get(label, 0)), "mean_iou_matched": _share(sum(hits), len(hits)),
        }  # fmt: skip


def _share(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0
