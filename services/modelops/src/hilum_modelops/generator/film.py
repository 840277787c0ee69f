"""From anatomy to film: the density of a chest, its decoys, then exposure, noise, markers and collimation."""

import numpy as np
from PIL import Image, ImageFilter

from hilum_modelops.generator.anatomy import Anatomy, Ink, Points, as_plane, lattice, soft_step
from hilum_modelops.generator.scene import Frame, Plane, Variant


def body(anatomy: Anatomy, frame: Frame) -> Plane:
    """Soft mask of the patient: torso, shoulders, neck; air beside and above."""
    x_abs = np.abs(frame.grid_x)
    shoulder = anatomy.apex - 0.13 + 0.42 * np.maximum(x_abs - 0.20, 0.0) ** 1.3
    torso = soft_step(np.asarray(frame.grid_y - shoulder, dtype=np.float32), 0.03)
    neck = soft_step(np.asarray(0.24 - x_abs, dtype=np.float32), 0.03)
    flank = anatomy.half_width * 1.22 + 0.8 * np.maximum(-0.10 - frame.grid_y, 0.0)
    return np.maximum(torso, neck) * soft_step(np.asarray(flank - x_abs, dtype=np.float32), 0.03)


def soft_tissue(anatomy: Anatomy, frame: Frame, lungs: dict[int, Plane], heart: Plane) -> Plane:
    """Density of everything soft: body wall, lungs, mediastinum, heart, trachea, spine."""
    x, y = frame.grid_x, frame.grid_y
    x_abs = np.abs(x)
    lung = lungs[-1] + lungs[1]
    density = 0.60 - 0.10 * x_abs + 0.10 * soft_step(y - np.float32(anatomy.base[0]), 0.2)
    density -= 0.38 * lung * (1.0 - 0.18 * x_abs)
    waist = 0.115 + 0.05 * soft_step(y + 0.1, 0.2)
    middle = soft_step(np.asarray(waist - np.abs(x - 0.01), dtype=np.float32), 0.012)
    knob = np.hypot(x - np.float32(0.125), y - np.float32(anatomy.apex + 0.36)).astype(np.float32)
    middle = np.maximum(middle, soft_step(0.085 - knob, 0.012))
    central = np.maximum(middle, heart)
    density += central * np.maximum(0.66 - density, 0.0) * 0.95
    spine = soft_step(np.asarray(0.085 - np.abs(x - anatomy.spine_x), dtype=np.float32), 0.02)
    density += spine * (0.055 + 0.025 * np.sin(y * np.float32(46.0)))
    trachea = soft_step(np.asarray(0.038 - np.abs(x + 0.01), dtype=np.float32), 0.012) * soft_step(-0.22 - y, 0.02)
    return np.asarray(density - 0.10 * trachea, dtype=np.float32)


def vessels(rng: np.random.Generator, anatomy: Anatomy, frame: Frame) -> Plane:
    """Vessels that branch from both hila, with their bright roots."""
    ink = Ink(frame, fine=False)
    for side in (-1, 1):
        root = np.array([side * rng.uniform(0.15, 0.20), rng.uniform(-0.16, -0.04)])
        for _ in range(int(rng.integers(9, 15))):
            heading = rng.uniform(-1.45, 1.45)
            _branch(rng, ink, root, side, heading, rng.uniform(0.30, 0.62), 0.034)
        for _ in range(3):
            blob = root + rng.normal(0, 0.035, 2)
            _disc(ink, blob, rng.uniform(0.02, 0.045), int(rng.integers(120, 220)))
    return ink.plane(0.008)


def _branch(
    rng: np.random.Generator, ink: Ink, start: Points, side: int, heading: float, length: float, width: float
) -> None:
    t = np.linspace(0, 1, 7)[:, None]
    bend = rng.uniform(-0.5, 0.5)
    angle = heading + bend * t
    points = start + t * length * np.hstack([side * np.cos(angle), np.sin(angle)])
    for index in range(6):
        ink.stroke(points[index : index + 2], width * (1 - 0.14 * index), 205 - 25 * index)
    if width > 0.02:
        for index in (2, 3):
            _branch(rng, ink, points[index], side, heading + rng.uniform(-0.8, 0.8), length * 0.5, width * 0.5)


def _disc(ink: Ink, centre: Points, radius: float, value: int) -> None:
    angles = np.linspace(0, 2 * np.pi, 20)
    ink.polygon(centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1), value)


def decoys(rng: np.random.Generator, anatomy: Anatomy, frame: Frame) -> Plane:
    """What looks like a finding and is none: clavicles, scapulae, nipples, breasts, leads, calcified spots, gas."""
    ink = Ink(frame)
    for side in (-1, 1):
        tilt = rng.uniform(-0.10, 0.02)
        t = np.linspace(0, 1, 14)
        height = anatomy.apex + 0.15 + tilt * t - 0.05 * np.sin(t * np.pi * 1.6)
        line = np.stack([side * (0.06 + 0.62 * t), height], axis=1)
        ink.stroke(line, 0.058, 105)
        ink.stroke(line, 0.034, 80)
    bones = ink.plane(0.008)
    soft = Ink(frame, fine=False)
    for side in (-1, 1):
        edge = anatomy.half_width * rng.uniform(0.84, 1.0)
        soft.polygon(_scapula(anatomy, side, edge), 42)
    shade: Plane = soft.plane(0.02)
    x, y = frame.grid_x, frame.grid_y
    if anatomy.breasts > 0:
        for side in (-1, 1):
            distance = np.hypot((x - side * 0.45) / 1.15, y - 0.16).astype(np.float32)
            shade = as_plane(shade + anatomy.breasts * soft_step(0.34 - distance, 0.03))
    if rng.random() < 0.25:
        offset, drop = rng.uniform(0.36, 0.48), rng.uniform(0.22, 0.34)
        for side in (-1, 1):
            spot = np.hypot(x - side * offset, y - drop - rng.normal(0, 0.01)).astype(np.float32)
            shade = shade + rng.uniform(0.05, 0.09) * soft_step(0.030 - spot, 0.010)
    gas = np.hypot((x - rng.uniform(0.25, 0.40)) / 1.5, y - anatomy.base[1] - rng.uniform(0.13, 0.2)).astype(np.float32)
    shade = shade - rng.uniform(0.0, 0.22) * soft_step(rng.uniform(0.05, 0.09) - gas, 0.02)
    return np.asarray(bones * np.float32(0.42) + shade + _spots(rng, frame), dtype=np.float32)


def _scapula(anatomy: Anatomy, side: int, edge: float) -> Points:
    top = anatomy.apex + 0.22
    shape = [[edge, top + 0.05], [edge + 0.30, top - 0.02], [edge + 0.22, top + 0.45], [edge + 0.05, top + 0.55]]
    return np.asarray(np.array(shape) * np.array([side, 1.0]), dtype=np.float64)


def _spots(rng: np.random.Generator, frame: Frame) -> Plane:
    """Small calcified granulomas (under 3 % of the side) and monitoring leads."""
    ink = Ink(frame)
    for _ in range(int(rng.integers(0, 4))):
        _disc(ink, rng.uniform(-0.5, 0.5, 2), rng.uniform(0.010, 0.022), int(rng.integers(40, 110)))
    if rng.random() < 0.18:
        for _ in range(int(rng.integers(1, 4))):
            spot = rng.uniform([-0.6, -0.6], [0.6, 0.4])
            t = np.linspace(0, 1, 12)[:, None]
            wave = 0.04 * np.sin(t * 5 + rng.uniform(0, 6))
            ink.stroke(spot + np.hstack([t * rng.uniform(-0.9, 0.9) + wave, t * rng.uniform(0.5, 1.3)]), 0.010, 90)
            _disc(ink, spot, 0.026, 190)
            _disc(ink, spot, 0.013, 60)
    return ink.plane(0.004) * np.float32(0.5)


def expose(rng: np.random.Generator, variant: Variant, frame: Frame, density: Plane) -> Plane:
    """Tone curve, scatter, blur of the focal spot and detector noise: density to display 0 to 1."""
    haze = lattice(rng, frame, 2.2) * np.float32(rng.uniform(*variant.scatter))
    low, high = rng.uniform(0.02, 0.14), rng.uniform(0.74, 0.92)
    tone = np.clip((density + haze - low) / (high - low), 0.0, 1.15)
    tone = tone ** np.float32(rng.uniform(*variant.gamma))
    tone = tone / (1.0 + 0.12 * tone * tone)
    tone = tone + np.float32(rng.uniform(*variant.grain)) * lattice(rng, frame, variant.grain_cells)
    white = np.float32(rng.uniform(*variant.white_noise) * np.clip(frame.unit_px / 112.0, 0.7, 2.2))
    tone = tone + white * rng.standard_normal(tone.shape, dtype=np.float32)
    if variant.row_noise:
        tone = tone + np.float32(variant.row_noise) * rng.standard_normal((frame.rows, 1), dtype=np.float32)
    return np.asarray(tone, dtype=np.float32)


_R = [[(0.0, 1.0), (0.0, 0.0), (0.5, 0.0), (0.6, 0.25), (0.5, 0.5), (0.0, 0.5)], [(0.25, 0.5), (0.6, 1.0)]]
_GLYPHS = {"L": [[(0.0, 0.0), (0.0, 1.0), (0.6, 1.0)]], "R": _R}


def marker(rng: np.random.Generator, frame: Frame) -> Plane:
    """A lead L or R in an upper corner: L on image right, R on image left (patient facing the viewer)."""
    ink = Ink(frame)
    letter, side = ("R", -1) if rng.random() < 0.5 else ("L", 1)
    size = rng.uniform(0.07, 0.12)
    half_x, half_y = frame.cols / 2 / frame.unit_px, frame.rows / 2 / frame.unit_px
    corner = np.array([side * (half_x - rng.uniform(0.16, 0.26)), -half_y + rng.uniform(0.10, 0.28)])
    for stroke in _GLYPHS[letter]:
        ink.stroke(corner + size * np.array(stroke), size * 0.2, 235)
    return ink.plane(0.003)


def collimate(rng: np.random.Generator, frame: Frame, tone: Plane) -> Plane:
    """Lead shutters: black borders with soft edges, a little rotated, that may be absent."""
    if rng.random() < 0.55:
        return tone
    half_x, half_y = frame.cols / 2 / frame.unit_px, frame.rows / 2 / frame.unit_px
    turn = rng.normal(0, 0.01)
    x, y = frame.grid_x + turn * frame.grid_y, frame.grid_y - turn * frame.grid_x
    keep = np.ones_like(tone)
    for plane, half in ((x, half_x), (-x, half_x), (y, half_y), (-y, half_y)):
        if rng.random() < 0.6:
            keep = keep * soft_step(np.asarray(half - rng.uniform(0.02, 0.09) - plane, dtype=np.float32), 0.006)
    return np.asarray(tone * keep + 0.02 * (1 - keep), dtype=np.float32)


def sharpen(plane: Plane, sigma_px: float, amount: float) -> Plane:
    """Unsharp masking, as a modality's own processing does it."""
    image = Image.fromarray((np.clip(plane, 0, 1) * 255).astype(np.uint8))
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(sigma_px)), dtype=np.float32) / np.float32(255)
    return as_plane(plane + amount * (plane - soft))
