"""A folder of shards of generated images: one process writes, the trainer reads what is there.

A shard is one pickle: {"grid": (rows, cols) in patches, "pixels": uint8 (n, rows * 16, cols * 16),
"findings": n tuples of Finding with boxes on the 0-1000 grid}.
"""

import os
import pickle
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hilum_modelops.generator import Finding, draw_shape, render

PATCH = 16
MERGED = 32
MAX_PIXELS = 51_200
MIN_PIXELS = 32_768
SHARD = 96
TRAIN_SEED, VALIDATION_SEED, TEST_SEED = 1_000_000, 8_000_000, 9_000_000


def grid_of(rows: int, cols: int) -> tuple[int, int]:
    """Patches (rows, cols) that the image processor's smart_resize gives an image; both even."""
    high, wide = max(MERGED, round(rows / MERGED) * MERGED), max(MERGED, round(cols / MERGED) * MERGED)
    if high * wide > MAX_PIXELS:
        beta = (rows * cols / MAX_PIXELS) ** 0.5
        high, wide = int(rows / beta / MERGED) * MERGED, int(cols / beta / MERGED) * MERGED
    elif high * wide < MIN_PIXELS:
        beta = (MIN_PIXELS / (rows * cols)) ** 0.5
        high, wide = -int(-rows * beta // MERGED) * MERGED, -int(-cols * beta // MERGED) * MERGED
    return high // PATCH, wide // PATCH


def relative(findings: tuple[Finding, ...], rows: int, cols: int) -> tuple[Finding, ...]:
    """Pixel boxes to the 0-1000 grid (floats)."""
    scale = (1000 / cols, 1000 / rows, 1000 / cols, 1000 / rows)
    scaled = [tuple(a * b for a, b in zip(f.box, scale, strict=True)) for f in findings]
    return tuple(replace(f, box=(b[0], b[1], b[2], b[3])) for f, b in zip(findings, scaled, strict=True))


def sample(seed: int, ease: float = 0.0, variant: str = "a") -> tuple[tuple[int, int], Any, tuple[Finding, ...]]:
    """Renders a seed at a random size and resizes it to its patch grid: grid, uint8 image, findings (0-1000)."""
    rng = np.random.default_rng([seed, 77])
    rows, cols = draw_shape(seed, int(rng.integers(226, 330)))
    film = render(seed, variant=variant, rows=rows, cols=cols, ease=ease)
    grid = grid_of(rows * 4, cols * 4)
    image = Image.fromarray(np.round(film.pixels * 255).astype(np.uint8))
    pixels = np.asarray(image.resize((grid[1] * PATCH, grid[0] * PATCH), Image.Resampling.BICUBIC))
    return grid, pixels, relative(film.findings, rows, cols)


def write_shards(folder: Path, first_seed: int, seconds: float, easy_until: int = 0) -> None:
    """Fills shards until time is up and closes those begun. Seeds before `easy_until` (counted from the first)
    follow the curriculum."""
    folder.mkdir(parents=True, exist_ok=True)
    end, seed = time.time() + seconds, first_seed
    open_shards: dict[tuple[int, int], list[Any]] = {}
    while time.time() < end:
        ease = max(0.0, 1.0 - (seed - first_seed) / easy_until) if easy_until else 0.0
        grid, pixels, findings = sample(seed, ease)
        rows = open_shards.setdefault(grid, [])
        rows.append((pixels, findings))
        if len(rows) == SHARD:
            _write(folder / f"{seed:09d}.pkl", grid, rows)
            open_shards[grid] = []
        seed += 1
    for number, (grid, rows) in enumerate(open_shards.items()):
        if rows:
            _write(folder / f"{seed + number:09d}.pkl", grid, rows)


def _write(path: Path, grid: tuple[int, int], rows: list[Any]) -> None:
    payload = {"grid": grid, "pixels": np.stack([r[0] for r in rows]), "findings": [r[1] for r in rows]}
    path.with_suffix(".tmp").write_bytes(pickle.dumps(payload, protocol=5))
    os.replace(path.with_suffix(".tmp"), path)
