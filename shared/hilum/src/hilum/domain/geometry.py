"""Boxes and the one mapping between MedMO's grid and the pixels of an image."""

import math
from dataclasses import dataclass

from hilum.domain.errors import Reject

GRID = 1000
"""MedMO and Qwen3-VL place boxes on a 0-1000 grid over the whole image, origin at its top left corner."""


@dataclass(frozen=True, slots=True)
class GridBox:
    """A box on the 0-1000 grid: x to the right, y down; x1 < x2 and y1 < y2."""

    x1: int
    y1: int
    x2: int
    y2: int

    def __post_init__(self) -> None:
        if not (0 <= self.x1 < self.x2 <= GRID and 0 <= self.y1 < self.y2 <= GRID):
            raise Reject(f"box [{self.x1}, {self.y1}, {self.x2}, {self.y2}] is empty or outside the 0-{GRID} grid")


@dataclass(frozen=True, slots=True)
class PixelBox:
    """A box in image pixels of the original frame.

    Column and row coordinates of PS3.3 C.18.6: 0\\0 is the top left corner of the top left pixel, so the
    bottom right corner of the image is columns\\rows.
    """

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.left, self.top, self.right, self.bottom))):
            raise Reject("box has a coordinate that is not a number")
        if not (0 <= self.left < self.right and 0 <= self.top < self.bottom):
            raise Reject("box is empty or begins outside the image")

    def is_inside(self, *, rows: int, columns: int) -> bool:
        """True when no part of the box lies outside an image of this size (pixels)."""
        return self.right <= columns and self.bottom <= rows


def to_pixels(box: GridBox, *, rows: int, columns: int) -> PixelBox:
    """The grid box in pixels of an image of `rows` x `columns` (the original, whatever size the model saw)."""
    return PixelBox(
        left=box.x1 * columns / GRID,
        top=box.y1 * rows / GRID,
        right=box.x2 * columns / GRID,
        bottom=box.y2 * rows / GRID,
    )


def to_grid(box: PixelBox, *, rows: int, columns: int) -> GridBox:
    """The nearest grid box of a pixel box; never empty."""
    x1 = min(round(box.left * GRID / columns), GRID - 1)
    y1 = min(round(box.top * GRID / rows), GRID - 1)
    x2 = max(min(round(box.right * GRID / columns), GRID), x1 + 1)
    y2 = max(min(round(box.bottom * GRID / rows), GRID), y1 + 1)
    return GridBox(x1, y1, x2, y2)


def iou(a: PixelBox, b: PixelBox) -> float:
    """Intersection over union of two boxes in the same frame, 0 to 1."""
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a.right - a.left) * (a.bottom - a.top) + (b.right - b.left) * (b.bottom - b.top) - shared)
