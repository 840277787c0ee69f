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


NANO_ANSWERS = 100
NANO_LOGITS = range(0, NANO_ANSWERS, 10)
"""Requests whose logits before the first token are stored as well."""
NANO_PROMPTS = (
    "Detect and localize all abnormalities in this image.",
    "Generate a detailed radiology report for this chest X-ray.",
    "Is there a nodule?",
    "Is the heart enlarged?",
)


def nano_request(number: int) -> Request:
    """One of the requests whose answers by MedMO-Nano are stored."""
    return Request((film(number),), NANO_PROMPTS[number % len(NANO_PROMPTS)], 160)


def film(seed: int) -> NDArray[np.uint8]:
    """Uint8 (rows, cols, 3): something like a chest radiograph, of another size for each seed.

    Two dark lungs, a heart, ribs, and now and then a bright disc; only here to make a model talk.
    """
    generator = np.random.RandomState(seed)
    rows, columns = generator.randint(150, 420, 2)
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    values = 170 - 40 * x**2
    for side in (-0.42, 0.42):
        values -= 110 * _inside(((x - side) / 0.3) ** 2 + ((y + 0.05) / 0.65) ** 2)
    values += 8 * np.cos(22 * y + 4 * np.abs(x))
    values += 70 * _inside(((x - 0.1) / generator.uniform(0.2, 0.45)) ** 2 + ((y - 0.3) / 0.3) ** 2)
    for _ in range(generator.randint(0, 3)):
        across, down, size = generator.uniform(-0.6, 0.6), generator.uniform(-0.5, 0.5), generator.uniform(0.04, 0.15)
        values += 60 * np.exp(-((((x - across) ** 2 + (y - down) ** 2) / size**2) ** 2))
    values += generator.randint(-6, 7, values.shape)
    return np.repeat(np.clip(values, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def _inside(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 where `distance` is well below 1, 0 where it is well above."""
    return 0.5 * (1 - np.tanh(10 * (distance - 1)))
