"""What the golden files hold: geometries, requests and images, all made from seeds, so that only figures are stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hilum_medmo.model import Request
from hilum_medmo.testing.random_checkpoint import TINY, Geometry

MAX_NEW_TOKENS = 40
PROMPTS = (
    "Detect and localize all abnormalities in this image.",
    "Gibt es hier einen Größenunterschied?\n\n  Ja/nein 12.5 mm",
    "肺结节 🫁 yes",
    "",
)


@dataclass(frozen=True, slots=True)
class Case:
    """One random-weight checkpoint and the sizes (rows, columns) of the images of each request made of it."""

    name: str
    geometry: Geometry
    seed: int
    requests: tuple[tuple[tuple[int, int], ...], ...]

    def request(self, number: int) -> Request:
        """The request of this number: image sizes from the case, prompt from `PROMPTS`."""
        sizes = self.requests[number]
        images = tuple(noise_image(1000 * self.seed + 10 * number + at, size) for at, size in enumerate(sizes))
        return Request(images, PROMPTS[number % len(PROMPTS)], MAX_NEW_TOKENS)


def noise_image(seed: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Uint8 (rows, cols, 3): noise on a gradient, hard for a resizing filter; the same on every machine."""
    generator = np.random.RandomState(seed)
    ramp = np.linspace(0, 200, size[0] * size[1]).reshape(*size, 1)
    return np.clip(ramp + generator.randint(-60, 120, (*size, 3)), 0, 255).astype(np.uint8)


def logit_rows(size: int) -> NDArray[np.int64]:
    """The prompt positions whose logits are stored: every fifth, and the last, which decides the first token."""
    return np.unique(np.append(np.arange(0, size, 5), size - 1))


_SIZES = ((), ((100, 77),), ((64, 96), (150, 40)), ((33, 200), (160, 160), (45, 45)))

CASES = (
    Case("tied-grouped", TINY, 3, _SIZES),
    Case(
        "untied-bias-one-kv-head",
        Geometry(
            tied=False,
            kv_heads=1,
            attention_bias=True,
            layers=3,
            deepstack_layers=(1, 2),
            mrope_section=(3, 3, 2),
            rope_theta=5_000_000.0,
        ),
        4,
        _SIZES,
    ),
    Case(
        "every-head-its-own-mergers-out-of-order",
        Geometry(
            heads=3,
            kv_heads=3,
            head_dim=32,
            mrope_section=(6, 5, 5),
            vision_heads=4,
            deepstack_layers=(2, 0, 3),
            positions_per_side=9,
        ),
        5,
        _SIZES,
    ),
    Case("no-deepstack", Geometry(tied=False, deepstack_layers=(), layers=3), 6, _SIZES[:2]),
)

PROCESSOR_SIZES = ((1, 1), (31, 33), (48, 80), (95, 97), (100, 77), (7, 900), (333, 64), (512, 512))
"""Sizes whose pixels are stored, for a processor of 32² to 96² pixels."""
PROCESSOR_PIXELS = (32 * 32, 96 * 96)


def grid_sizes() -> list[tuple[int, int]]:
    """200 odd sizes (rows, columns) whose grids are stored, for `PROCESSOR_PIXELS` and for Qwen3-VL's own limits."""
    generator = np.random.RandomState(200)
    return [(int(rows), int(columns)) for rows, columns in generator.randint(20, 3000, (200, 2))]
