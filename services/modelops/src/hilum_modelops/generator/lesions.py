"""Findings: what each does to the density planes, and the box that it earns.

A stage changes `Canvas` in place; densities are in display units before the tone curve (0 air, about 0.8 dense).
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from hilum_modelops.generator import labels
from hilum_modelops.generator.anatomy import Anatomy, Ink, Points, anterior_points, lattice, rib_points, soft_step, tube
from hilum_modelops.generator.scene import Box, Finding, FindingSpec, Frame, Plane, mask_box


@dataclass(slots=True)
class Canvas:
    """Working planes (rows, cols): the density, the vessels still to be added, both lungs' masks by side."""

    frame: Frame
    anatomy: Anatomy
    density: Plane
    vessels: Plane
    lungs: dict[int, Plane]


def mix(low: float, high: float, amount: float) -> float:
    """Linear blend, low at amount 0."""
    return low + (high - low) * amount


def _finding(spec: FindingSpec, side: int, box: Box, canvas: Canvas, contrast: float) -> Finding:
    centre = (box[1] + box[3]) / 2
    anatomy, frame = canvas.anatomy, canvas.frame
    top, bottom = (frame.to_pixels(np.array([[side * 0.4, y]]))[0, 1] for y in (anatomy.apex, anatomy.base_of(side)))
    third = (centre - top) / (bottom - top)
    zone = "upper" if third < 0.36 else "middle" if third < 0.68 else "lower"
    return Finding(spec.label, box, "right" if side < 0 else "left", zone, contrast)


def pneumothorax(canvas: Canvas, rng: np.random.Generator, spec: FindingSpec, side: int) -> Finding | None:
    """Air between lung and chest wall: dark, without vessels, bounded by a thin bright pleural line."""
    anatomy, frame, lung = canvas.anatomy, canvas.frame, canvas.lungs[side]
    x_abs = np.asarray(side * frame.grid_x)
    depth, end = mix(0.16, 0.30, spec.size) * rng.uniform(0.9, 1.1), mix(0.55, 1.0, spec.size) * rng.uniform(0.9, 1.1)
    fall = np.clip((frame.grid_y - anatomy.apex) / end, 0.0, 1.0)
    rim = depth * (1.0 - fall**2.5) - 0.06 * (fall >= 1.0)
    wall = anatomy.outer(frame.grid_y)
    edge = np.asarray(wall - rim - x_abs, dtype=np.float32)
    cap = np.asarray(frame.grid_y - (anatomy.apex + 0.55 * depth), dtype=np.float32)
    edge = np.minimum(edge, cap)
    air = soft_step(-edge, 0.006) * lung
    darkening = mix(0.07, 0.16, spec.strength)
    line = np.exp(-((edge / 0.010) ** 2)) * lung
    canvas.density += mix(0.05, 0.13, spec.strength) * line - darkening * air
    canvas.vessels *= 1.0 - air
    box = mask_box(air)
    return None if box is None else _finding(spec, side, box, canvas, darkening)


def effusion(canvas: Canvas, rng: np.random.Generator, spec: FindingSpec, side: int) -> Finding | None:
    """Fluid in the base: a white meniscus that climbs the lateral wall."""
    anatomy, frame, lung = canvas.anatomy, canvas.frame, canvas.lungs[side]
    x_abs = np.asarray(side * frame.grid_x)
    wall, inner = anatomy.outer(frame.grid_y), anatomy.inner(frame.grid_y)
    out = np.clip((x_abs - inner) / np.maximum(wall - inner, 0.05), 0.0, 1.1)
    height = mix(0.24, 0.62, spec.size) * rng.uniform(0.9, 1.1)
    level = anatomy.base_of(side) + 0.10 - height * (0.35 + 0.65 * out**2.2)
    fluid = soft_step(np.asarray(frame.grid_y - level, dtype=np.float32), 0.022) * lung
    opacity = mix(0.45, 0.92, spec.strength)
    target = 0.66 + 0.06 * rng.uniform(-1, 1)
    canvas.density += opacity * fluid * np.maximum(target - canvas.density, 0.0)
    canvas.vessels *= 1.0 - opacity * fluid
    box = mask_box(fluid)
    return None if box is None else _finding(spec, side, box, canvas, opacity * 0.4)


def _spot(rng: np.random.Generator, canvas: Canvas, side: int, margin: float, radius: float) -> tuple[float, float]:
    """A point inside a lung, `margin` from its borders, in the anatomy frame."""
    anatomy = canvas.anatomy
    for _ in range(40):
        y = rng.uniform(anatomy.apex + margin + radius, anatomy.base_of(side) + 0.04 - radius)
        row = np.asarray([y], dtype=np.float32)
        low, high = float(anatomy.inner(row)[0]) + margin, float(anatomy.outer(row)[0]) - radius * 0.8
        if high > low:
            return side * rng.uniform(low, high), y
    return side * 0.4, 0.0


def consolidation(canvas: Canvas, rng: np.random.Generator, spec: FindingSpec, side: int) -> Finding | None:
    """A cloudy, irregular opacity with fluffy borders and dark air bronchograms."""
    frame = canvas.frame
    radius = mix(0.15, 0.27, spec.size)
    rx, ry = radius * rng.uniform(0.8, 1.15), radius * rng.uniform(0.8, 1.25)
    cx, cy = _spot(rng, canvas, side, 0.08, radius * 0.7)
    x, y = (frame.grid_x - np.float32(cx)) / rx, (frame.grid_y - np.float32(cy)) / ry
    ragged = lattice(rng, frame, 9.0) * 0.22 + lattice(rng, frame, 22.0) * 0.10
    cloud = soft_step(np.asarray((1.0 + ragged - np.sqrt(x * x + y * y)), dtype=np.float32), 0.16)
    cloud = cloud * canvas.lungs[side]
    opacity = mix(0.13, 0.30, spec.strength)
    inside = 1.0 + 0.30 * lattice(rng, frame, 30.0)
    canvas.density += opacity * cloud * np.clip(inside, 0.3, 1.7)
    canvas.vessels *= 1.0 - 0.6 * cloud
    box = mask_box(cloud)
    return None if box is None else _finding(spec, side, box, canvas, opacity)


def nodule(canvas: Canvas, rng: np.random.Generator, spec: FindingSpec, side: int) -> Finding | None:
    """A round opacity, its diameter 7 to 14 % of the image's mean side."""
    frame = canvas.frame
    radius = mix(0.072, 0.135, spec.size)
    cx, cy = _spot(rng, canvas, side, 0.10, radius)
    x, y = frame.grid_x - np.float32(cx), frame.grid_y - np.float32(cy)
    squash, turn = rng.uniform(0.88, 1.0), rng.uniform(0, np.pi)
    u, v = (x * np.cos(turn) + y * np.sin(turn)) / squash, y * np.cos(turn) - x * np.sin(turn)
    wobble = 1.0 + 0.05 * np.sin(3 * np.arctan2(v, u) + rng.uniform(0, 6.28))
    ball = soft_step(np.asarray(radius * wobble - np.sqrt(u * u + v * v), dtype=np.float32), 0.014)
    opacity = mix(0.12, 0.26, spec.strength)
    canvas.density += opacity * ball
    box = mask_box(ball)
    return None if box is None else _finding(spec, side, box, canvas, opacity)


def cardiomegaly(canvas: Canvas, spec: FindingSpec, heart: Plane) -> Finding | None:
    """The heart itself was drawn large; the finding is its silhouette."""
    box = mask_box(heart)
    return None if box is None else Finding(spec.label, box, "", "", canvas.anatomy.heart_ratio)


@dataclass(frozen=True, slots=True)
class Break:
    """A rib fracture to draw: side, rib, whether on the anterior part, where along the line (0 to 1)."""

    side: int
    index: int
    anterior: bool
    at: float
    step: float
    spec: FindingSpec


def draw_break(rng: np.random.Generator, anatomy: Anatomy, spec: FindingSpec, side: int) -> Break:
    """Chooses where a rib breaks; the lateral half, where the lung behind is dark."""
    direction = 1 if rng.random() < 0.7 else -1
    return Break(
        side, int(rng.integers(2, max(3, anatomy.rib_count - 2))), False, rng.uniform(0.42, 0.80),
        direction * mix(0.055, 0.085, spec.strength), spec,
    )  # fmt: skip


def _broken(points: Points, brk: Break) -> tuple[Points, Points]:
    """A rib's two fragments: the outer one is shifted across the rib and tilted."""
    fine = np.stack([np.interp(np.linspace(0, 1, 60), np.linspace(0, 1, len(points)), points[:, k]) for k in (0, 1)], 1)
    cut = int(brk.at * 59)
    inner, outer = fine[: cut + 1].copy(), fine[cut + 1 :].copy()
    tangent = fine[min(cut + 2, 59)] - fine[max(cut - 2, 0)]
    tangent /= np.linalg.norm(tangent)
    normal = np.array([-tangent[1], tangent[0]]) * np.sign(tangent[0] or 1.0)
    fade = np.linspace(1.0, 0.35, len(outer))[:, None]
    outer += normal * brk.step * fade + tangent * 0.030
    tail = np.clip(1 - np.arange(len(inner))[::-1] / 10.0, 0, 1)[:, None]
    inner -= normal * brk.step * 0.35 * tail
    return inner, outer


def draw_ribs(ink: Ink, anatomy: Anatomy, breaks: list[Break], healed: tuple[int, int, float] | None) -> None:
    """Draws all ribs, broken where told; `healed` (side, rib, at) is a decoy: a thickening without a step."""
    for side in (-1, 1):
        for index in range(anatomy.rib_count):
            points = rib_points(anatomy, side, index)
            brk = next((b for b in breaks if (b.side, b.index) == (side, index)), None)
            width, value = anatomy.rib_width * (0.75 + 0.045 * index), min(anatomy.rib_strength * 4, 0.8)
            for part in _broken(points, brk) if brk else (points,):
                tube(ink, part, width * (1.1 if brk else 1.0), min(value * (1.45 if brk else 1.0), 1.0))
            if healed and healed[:2] == (side, index):
                at = int(healed[2] * (len(points) - 3))
                ink.stroke(points[at : at + 2], width * 1.5, round(255 * min(value, 1.0)))


def draw_anterior_ribs(ink: Ink, anatomy: Anatomy) -> None:
    """Draws the fainter anterior parts, which cross the posterior ones."""
    for side in (-1, 1):
        for index in range(1, anatomy.rib_count - 3):
            tube(ink, anterior_points(anatomy, side, index), anatomy.rib_width * 1.15, anatomy.rib_strength * 2.4)


def fracture(canvas: Canvas, brk: Break) -> Finding | None:
    """The box around a drawn break: a square, clipped to the image, 13 to 17 % of the mean side."""
    frame = canvas.frame
    inner, outer = _broken(rib_points(canvas.anatomy, brk.side, brk.index), brk)
    centre = frame.to_pixels(((inner[-1] + outer[0]) / 2)[None])[0]
    half = mix(0.13, 0.17, brk.spec.size) * frame.unit_px
    x1, y1 = max(0.0, float(centre[0] - half)), max(0.0, float(centre[1] - half))
    x2, y2 = min(float(frame.cols), float(centre[0] + half)), min(float(frame.rows), float(centre[1] + half))
    if x2 - x1 < half or y2 - y1 < half:
        return None
    return _finding(brk.spec, brk.side, (x1, y1, x2, y2), canvas, canvas.anatomy.rib_strength)


def resized(plane: Plane, rows: int, cols: int) -> Plane:
    """Bicubic, antialiased resize."""
    return np.asarray(Image.fromarray(plane).resize((cols, rows), Image.Resampling.BICUBIC), dtype=np.float32)


DRAWN = {
    labels.PNEUMOTHORAX: pneumothorax,
    labels.EFFUSION: effusion,
    labels.CONSOLIDATION: consolidation,
    labels.NODULE: nodule,
}
"""The findings that change the lung planes; the heart and the ribs are drawn with the anatomy."""
