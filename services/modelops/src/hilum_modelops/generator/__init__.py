"""Generated chest radiographs with known findings: numpy and Pillow only, deterministic per seed.

    from hilum_modelops.generator import render
    film = render(7, rows=1024, cols=1024)
    film.pixels      # float32 (rows, cols), 0 black to 1 white (MONOCHROME2)
    film.findings    # label, box (x1, y1, x2, y2 in pixels), side, zone

The anatomy and the findings of a seed are the same at every resolution; only the noise's grain differs.
"""

from collections.abc import Sequence

import numpy as np

from hilum_modelops.generator import film, labels, lesions
from hilum_modelops.generator.anatomy import Anatomy, Ink, as_plane, draw_anatomy, heart_mask, lattice, lung_mask
from hilum_modelops.generator.labels import LABELS
from hilum_modelops.generator.scene import VARIANTS, Finding, FindingSpec, Frame, Plane, Radiograph, Variant, make_frame
from hilum_modelops.generator.splinters import add_splinters

__all__ = ["LABELS", "VARIANTS", "Finding", "FindingSpec", "Radiograph", "draw_shape", "draw_specs", "render"]

_ASPECTS = ((1.0, 0.45), (0.80, 0.25), (0.75, 0.12), (1.22, 0.10), (1.33, 0.08))
"""cols / rows and how often."""
NORMAL_SHARE = 0.33


def draw_shape(seed: int, mean_side: int) -> tuple[int, int]:
    """Rows and columns of a seed's natural aspect ratio, about mean_side² pixels."""
    rng = np.random.default_rng([seed, 11])
    ratios, shares = zip(*_ASPECTS, strict=True)
    ratio = float(rng.choice(ratios, p=shares))
    if ratio != 1.0:
        ratio *= rng.uniform(0.98, 1.02)
    return round(mean_side / ratio**0.5), round(mean_side * ratio**0.5)


def draw_specs(rng: np.random.Generator, ease: float = 0.0) -> tuple[FindingSpec, ...]:
    """0 to 3 findings, at most two nodules or fractures; ease 0 (as evaluated) to 1 (large and plain, one only)."""
    if rng.random() < NORMAL_SHARE * (1.0 - 0.5 * ease):
        return ()
    count = 1 if rng.random() < ease else int(rng.choice((1, 2, 3), p=(0.50, 0.34, 0.16)))
    chosen = [LABELS[i] for i in rng.choice(len(LABELS), size=count, replace=False)]
    if count < 3 and chosen[0] in (labels.NODULE, labels.FRACTURE) and rng.random() < 0.3 * (1.0 - ease):
        chosen.append(chosen[0])
    specs = []
    for label in chosen:
        size, strength = rng.random(2)
        specs.append(FindingSpec(label, 0, ease + (1 - ease) * size, ease + (1 - ease) * strength))
    return tuple(specs)


def render(
    seed: int,
    *,
    variant: str = "a",
    rows: int = 512,
    cols: int = 512,
    findings: Sequence[FindingSpec] | None = None,
    ease: float = 0.0,
) -> Radiograph:
    """Draws one radiograph. findings: forced (an empty one gives a normal chest); None draws them from the seed."""
    look = VARIANTS[variant]
    salt = sum(map(ord, variant))
    plan = np.random.default_rng([seed, salt, 1])
    specs = draw_specs(plan, ease) if findings is None else tuple(findings)
    ratio = next((0.54 + 0.13 * s.size for s in specs if s.label == labels.CARDIOMEGALY), None)
    anatomy = draw_anatomy(np.random.default_rng([seed, salt, 2]), look, cols / rows, ratio)
    frame = make_frame(
        rows, cols, float(plan.normal(0, 0.035)), (float(plan.normal(0, 0.03)), float(plan.normal(0, 0.03)))
    )
    density, found = _chest(seed, salt, look, frame, anatomy, specs)
    noise = np.random.default_rng([seed, salt, 5])
    tone = film.expose(noise, look, frame, density)
    if noise.random() < 0.5:
        tone = film.sharpen(tone, 0.03 * frame.unit_px, float(noise.uniform(0.1, 0.5)))
    broken = np.random.default_rng([seed, salt, 6])
    for item in found:
        if item.label == labels.FRACTURE:
            add_splinters(tone, item.box, broken)
    tone = film.collimate(noise, frame, tone)
    tone = np.maximum(tone, film.marker(noise, frame)) if noise.random() < 0.7 else tone
    order = sorted(found, key=lambda f: (LABELS.index(f.label), f.box[1], f.box[0]))
    return Radiograph(np.clip(tone, 0.0, 1.0).astype(np.float32), tuple(order), seed, variant)


def _chest(
    seed: int, salt: int, look: Variant, frame: Frame, anatomy: Anatomy, specs: tuple[FindingSpec, ...]
) -> tuple[Plane, list[Finding]]:
    rng = np.random.default_rng([seed, salt, 3])
    sides = {spec: spec.side or (1 if rng.random() < 0.5 else -1) for spec in specs}
    lungs = {side: lung_mask(anatomy, frame, side) for side in (-1, 1)}
    heart = heart_mask(anatomy, frame)
    both = lungs[-1] + lungs[1]
    canvas = lesions.Canvas(
        frame, anatomy, film.soft_tissue(anatomy, frame, lungs, heart), film.vessels(rng, anatomy, frame), lungs
    )
    grain = lattice(rng, frame, 45.0) + 0.7 * lattice(rng, frame, 20.0)
    canvas.vessels = as_plane(canvas.vessels * 0.20 + rng.uniform(*look.texture) * grain)
    found: list[Finding | None] = []
    marks = np.random.default_rng([seed, salt, 4])
    for spec in specs:
        if spec.label in lesions.DRAWN:
            found.append(lesions.DRAWN[spec.label](canvas, marks, spec, sides[spec]))
        elif spec.label == labels.CARDIOMEGALY:
            found.append(lesions.cardiomegaly(canvas, spec, heart))
    breaks = [lesions.draw_break(marks, anatomy, s, sides[s]) for s in specs if s.label == labels.FRACTURE]
    breaks = list({(b.side, b.index): b for b in breaks}.values())
    found.extend(lesions.fracture(canvas, brk) for brk in breaks)
    ribs, front = Ink(frame), Ink(frame, fine=False)
    healed = (int(marks.choice((-1, 1))), int(marks.integers(2, 7)), float(marks.uniform(0.3, 0.8)))
    hidden = {(b.side, b.index) for b in breaks}
    lesions.draw_ribs(ribs, anatomy, breaks, healed if marks.random() < 0.25 and healed[:2] not in hidden else None)
    lesions.draw_anterior_ribs(front, anatomy)
    bones = 0.32 * ribs.plane(0.006) + 0.20 * front.plane(0.012)
    fade = 0.45 + 0.55 * both * (1.0 - 0.4 * heart)
    total = (
        canvas.density + canvas.vessels * both * (0.9 - 0.75 * heart) + bones * fade + film.decoys(rng, anatomy, frame)
    )
    return np.asarray(total * film.body(anatomy, frame), dtype=np.float32), [f for f in found if f is not None]
