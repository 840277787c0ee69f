"""Chest anatomy as parameters drawn once per seed, and the soft masks that follow from them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from hilum_modelops.generator.scene import Frame, Plane, Variant

Points = npt.NDArray[np.float64]


def as_plane(values: npt.ArrayLike) -> Plane:
    """float32, copied only if it is something else."""
    return np.asarray(values, dtype=np.float32)


def soft_step(distance: Plane, width: float) -> Plane:
    """0 to 1 over about 2 x width around distance 0 (a rational sigmoid: cheaper than exp)."""
    scaled = distance * np.float32(1.0 / width)
    return np.asarray(0.5 + 0.5 * scaled / np.sqrt(1 + scaled * scaled), dtype=np.float32)


def lattice(rng: np.random.Generator, frame: Frame, cells: float) -> Plane:
    """Smooth unit-variance noise (rows, cols) with about `cells` cells over the mean side, at any resolution."""
    shape = (
        max(2, round(cells * frame.rows / frame.unit_px / 2)),
        max(2, round(cells * frame.cols / frame.unit_px / 2)),
    )
    small = rng.standard_normal(shape, dtype=np.float32)
    if shape[0] >= frame.rows:
        small = small[: frame.rows, : frame.cols]
    return np.asarray(Image.fromarray(small).resize((frame.cols, frame.rows), Image.Resampling.BICUBIC))


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Everything about one patient, in the anatomy frame (see scene)."""

    half_width: float
    apex: float
    base: tuple[float, float]
    dome: float
    medial: float
    rib_count: int
    rib_drop: float
    rib_width: float
    rib_strength: float
    heart_ratio: float
    heart_tilt: float
    heart_shift: float
    spine_x: float
    breasts: float

    def base_of(self, side: int) -> float:
        """Y of the top of the diaphragm's dome on an image side."""
        return self.base[0] if side < 0 else self.base[1]

    def outer(self, y: Plane) -> Plane:
        """|X| of the chest wall's inside at each Y."""
        t = np.clip((y - self.apex) / 1.25, 0.0, 1.0)
        return np.asarray(self.half_width * np.sqrt(1.0 - (1.0 - t) ** 2.8), dtype=np.float32)

    def inner(self, y: Plane) -> Plane:
        """|X| of the lung's medial border at each Y."""
        t = np.clip(y - self.apex, 0.0, 2.0)
        return np.asarray(self.medial + 0.13 * np.exp(-t / 0.07) + 0.05 * t * t, dtype=np.float32)

    def diaphragm(self, x_abs: Plane, side: int) -> Plane:
        """Y of the diaphragm at each |X|."""
        off = (x_abs - 0.42 * self.half_width) / self.half_width
        return np.asarray(self.base_of(side) + self.dome * off * off, dtype=np.float32)

    def heart(self) -> tuple[float, float, float, float]:
        """Centre X, centre Y, half width, half height of the heart."""
        half = self.heart_ratio * self.half_width
        high = 0.12 + 0.62 * half
        return 0.30 * half + self.heart_shift, self.base[1] + 0.10 - high, half, high


def draw_anatomy(rng: np.random.Generator, variant: Variant, frame_ratio: float, heart_ratio: float | None) -> Anatomy:
    """Draws a patient. frame_ratio: cols / rows; heart_ratio: forced cardiothoracic ratio or None."""
    wide = float(np.clip(frame_ratio, 0.7, 1.4)) ** 0.35
    base = rng.uniform(*variant.base) / wide
    drawn_ratio = rng.uniform(*variant.heart_ratio)
    return Anatomy(
        half_width=rng.uniform(*variant.half_width) * wide, apex=rng.uniform(*variant.apex) / wide,
        base=(base, base + rng.uniform(0.0, 0.08)), dome=rng.uniform(0.45, 0.85), medial=rng.uniform(0.09, 0.14),
        rib_count=int(rng.integers(variant.rib_count[0], variant.rib_count[1] + 1)),
        rib_drop=rng.uniform(*variant.rib_drop), rib_width=rng.uniform(0.032, 0.046),
        rib_strength=rng.uniform(*variant.rib_strength),
        heart_ratio=drawn_ratio if heart_ratio is None else heart_ratio,
        heart_tilt=rng.uniform(0.25, 0.6), heart_shift=rng.uniform(-0.02, 0.04),
        spine_x=rng.uniform(-0.02, 0.02), breasts=rng.uniform(0.03, 0.09) if rng.random() < 0.4 else 0.0,
    )  # fmt: skip


def lung_mask(anatomy: Anatomy, frame: Frame, side: int) -> Plane:
    """Soft mask of one lung's projection, 0 to 1."""
    x_abs = np.asarray(side * frame.grid_x)
    return (
        soft_step(anatomy.outer(frame.grid_y) - x_abs, 0.010)
        * soft_step(x_abs - anatomy.inner(frame.grid_y), 0.014)
        * soft_step(anatomy.diaphragm(x_abs, side) - frame.grid_y, 0.010)
    )


def heart_mask(anatomy: Anatomy, frame: Frame) -> Plane:
    """Soft mask of the heart's silhouette."""
    cx, cy, half, high = anatomy.heart()
    cos, sin = np.cos(anatomy.heart_tilt), np.sin(anatomy.heart_tilt)
    x, y = frame.grid_x - np.float32(cx), frame.grid_y - np.float32(cy)
    u, v = (x * cos + y * sin) / half, (y * cos - x * sin) / high
    # The tilt shortens the width a little; the box is measured from the mask, so nothing depends on it.
    radius = (np.abs(u) ** 2.3 + np.abs(v) ** 2.3) ** np.float32(1 / 2.3)
    return soft_step(np.asarray((1.0 - radius) * min(half, high), dtype=np.float32), 0.014)


def rib_points(anatomy: Anatomy, side: int, index: int) -> Points:
    """Centre line (n, 2) of a posterior rib: out from the spine, arching, then down along the chest wall."""
    span = anatomy.base_of(side) + 0.25 - anatomy.apex
    start = anatomy.apex - 0.04 + span * index / anatomy.rib_count
    t = np.linspace(0.0, 1.0, 24)
    wall = float(anatomy.outer(np.asarray([start + anatomy.rib_drop + 0.03], dtype=np.float32))[0])
    reach = max(wall, 0.25) * 1.01
    x = 0.05 + (reach - 0.05) * np.sin(t * np.pi / 2)
    y = start - 0.05 * np.sin(t * np.pi) + (anatomy.rib_drop + 0.10) * t**2.2
    return np.stack([side * x, y], axis=1)


def anterior_points(anatomy: Anatomy, side: int, index: int) -> Points:
    """Centre line of the anterior part of a rib: from the chest wall inwards and down."""
    tail = rib_points(anatomy, side, index)[-1]
    t = np.linspace(0.0, 1.0, 16)
    x = abs(tail[0]) * (1 - 0.62 * t**1.3)
    return np.stack([side * x, tail[1] + 0.30 * t - 0.05 * t * t], axis=1)


class Ink:
    """A supersampled canvas for bones, vessels and markers; strokes are given in the anatomy frame."""

    def __init__(self, frame: Frame, fine: bool = True) -> None:
        self.frame = frame
        self.scale = 2 if fine and frame.rows * frame.cols < 700_000 else 1
        self.image = Image.new("L", (frame.cols * self.scale, frame.rows * self.scale), 0)
        self.draw = ImageDraw.Draw(self.image)

    def stroke(self, points: Points, width: float, value: int) -> None:
        """Draws a polyline of a width in anatomy units with a grey value 0 to 255."""
        flat = (self.frame.to_pixels(points) * self.scale).ravel().tolist()
        pixels = max(1, round(width * self.frame.unit_px * self.scale))
        self.draw.line(flat, fill=value, width=pixels, joint="curve")

    def polygon(self, points: Points, value: int) -> None:
        """Fills a polygon."""
        self.draw.polygon((self.frame.to_pixels(points) * self.scale).ravel().tolist(), fill=value)

    def plane(self, blur: float) -> Plane:
        """The canvas as float32 (rows, cols), 0 to 1, blurred by a sigma in anatomy units."""
        image = self.image.filter(ImageFilter.GaussianBlur(blur * self.frame.unit_px * self.scale))
        if self.scale > 1:
            image = image.resize((self.frame.cols, self.frame.rows), Image.Resampling.BOX)
        return np.asarray(image, dtype=np.float32) * np.float32(1 / 255)


def tube(ink: Ink, points: Points, width: float, value: float) -> None:
    """Draws a bone: a bright cortex around a dimmer marrow."""
    ink.stroke(points, width, round(255 * value))
    ink.stroke(points, width * 0.5, round(255 * value * 0.72))
