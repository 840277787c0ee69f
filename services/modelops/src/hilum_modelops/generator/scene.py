"""Values that describe one generated radiograph before and after it is drawn.

Anatomy frame: X to the image's right, Y down, origin at the image centre, one unit = half the geometric mean of the
image's sides, so that the frame does not depend on the number of pixels. Image left (X < 0) is the patient's right.
Pixel frame: x right, y down, origin at the outer corner of the first pixel; a box is x1, y1, x2, y2 with x2 > x1.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float32]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class FindingSpec:
    """A finding to draw: label, image side (-1 = image left, +1 = image right, 0 = generator's choice), size and
    strength, both 0 (hardest) to 1 (plainest)."""

    label: str
    side: int = 0
    size: float = 0.5
    strength: float = 0.5


@dataclass(frozen=True, slots=True)
class Finding:
    """A drawn finding: its box in pixels, the patient's side ("left", "right", "") and zone ("upper", "middle",
    "lower", ""), and its contrast as a fraction of the display range."""

    label: str
    box: Box
    side: str
    zone: str
    contrast: float


@dataclass(frozen=True, slots=True)
class Radiograph:
    """A generated radiograph. pixels: float32 (rows, cols), 0 black to 1 white, MONOCHROME2 sense."""

    pixels: Plane
    findings: tuple[Finding, ...]
    seed: int
    variant: str


@dataclass(frozen=True, slots=True)
class Variant:
    """The parameters in which variant "b" differs: ranges are (low, high) of a uniform draw."""

    name: str
    half_width: tuple[float, float] = (0.66, 0.80)
    apex: tuple[float, float] = (-0.80, -0.66)
    base: tuple[float, float] = (0.36, 0.56)
    rib_count: tuple[int, int] = (8, 10)
    rib_drop: tuple[float, float] = (0.10, 0.26)
    rib_strength: tuple[float, float] = (0.10, 0.19)
    heart_ratio: tuple[float, float] = (0.36, 0.47)
    white_noise: tuple[float, float] = (0.006, 0.022)
    grain_cells: float = 110.0
    grain: tuple[float, float] = (0.006, 0.02)
    texture: tuple[float, float] = (0.01, 0.028)
    gamma: tuple[float, float] = (0.75, 1.35)
    scatter: tuple[float, float] = (0.0, 0.05)
    row_noise: float = 0.0


VARIANTS: dict[str, Variant] = {
    "a": Variant("a"),
    "b": Variant(
        "b", half_width=(0.62, 0.84), apex=(-0.84, -0.62), base=(0.32, 0.60), rib_count=(7, 11), rib_drop=(0.05, 0.32),
        rib_strength=(0.11, 0.22), heart_ratio=(0.33, 0.48), white_noise=(0.014, 0.034), grain_cells=60.0,
        grain=(0.012, 0.03), texture=(0.02, 0.04), gamma=(0.65, 1.55), scatter=(0.03, 0.10), row_noise=0.006,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Frame:
    """The affine map between anatomy and pixels, and the anatomy coordinates of every pixel centre."""

    rows: int
    cols: int
    angle_rad: float
    shift: tuple[float, float]
    grid_x: Plane = field(repr=False)
    grid_y: Plane = field(repr=False)

    @property
    def unit_px(self) -> float:
        """Pixels per anatomy unit."""
        return 0.5 * float(np.sqrt(self.rows * self.cols))

    def to_pixels(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Anatomy points (n, 2) to pixel points (n, 2)."""
        cos, sin = np.cos(self.angle_rad), np.sin(self.angle_rad)
        x = points[:, 0] * cos - points[:, 1] * sin + self.shift[0]
        y = points[:, 0] * sin + points[:, 1] * cos + self.shift[1]
        return np.stack([x * self.unit_px + self.cols / 2, y * self.unit_px + self.rows / 2], axis=1)


def make_frame(rows: int, cols: int, angle_rad: float, shift: tuple[float, float]) -> Frame:
    """Builds the frame; the grids have shape (rows, cols)."""
    unit = 0.5 * float(np.sqrt(rows * cols))
    px = ((np.arange(cols, dtype=np.float32) + 0.5 - cols / 2) / unit - shift[0])[None, :]
    py = ((np.arange(rows, dtype=np.float32) + 0.5 - rows / 2) / unit - shift[1])[:, None]
    cos, sin = np.float32(np.cos(angle_rad)), np.float32(np.sin(angle_rad))
    return Frame(rows, cols, angle_rad, shift, px * cos + py * sin, py * cos - px * sin)


def mask_box(mask: Plane, level: float = 0.5) -> Box | None:
    """The tight pixel box of mask > level, or None where nothing is."""
    hit = mask > level
    ys, xs = np.flatnonzero(hit.any(axis=1)), np.flatnonzero(hit.any(axis=0))
    if len(ys) == 0:
        return None
    return float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1)
