"""Batches from the pool: one grid per batch, each image used a few times, with light augmentation."""

# torch and transformers are absent where the product is checked, so their types are Any there.
# mypy: disable-error-code="import-not-found,misc,untyped-decorator,no-any-return"

import pickle
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from hilum_modelops.generator import Finding
from hilum_modelops.generator.labels import FRACTURE, SMALL
from hilum_modelops.generator.splinters import add_splinters

REFRESH_S = 20.0
Place = tuple[int, int]
"""Shard and image in it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """pixels: float (B, H, W), 0-255; findings with boxes on the 0-1000 grid; grid in patches."""

    pixels: torch.Tensor
    findings: list[tuple[Finding, ...]]
    grid: tuple[int, int]


class Feed:
    """Reads new shards as they appear and hands out each image of a kind once before any of them again. Kinds: of
    which grid, and with or without a small finding."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.rng = np.random.default_rng(seed)
        self.seen: set[str] = set()
        self.shards: list[tuple[tuple[int, int], npt.NDArray[np.uint8], list[tuple[Finding, ...]]]] = []
        self.fresh = 0
        self.splinters = not (folder / "with-splinters").exists()
        self._kinds: dict[tuple[int, int], tuple[list[Place], list[Place]]] = {}
        self._queues: dict[tuple[tuple[int, int], int], list[Place]] = {}
        self._read = 0.0

    def refresh(self) -> int:
        """Loads new shards; answers how many images have been generated so far."""
        for path in sorted(self.folder.glob("*.pkl")):
            if path.name not in self.seen:
                self.seen.add(path.name)
                shard = pickle.loads(path.read_bytes())
                for index, findings in enumerate(shard["findings"]):
                    small = any(f.label in SMALL for f in findings)
                    kinds = self._kinds.setdefault(shard["grid"], ([], []))
                    kinds[small].append((len(self.shards), index))
                self.shards.append((shard["grid"], shard["pixels"], shard["findings"]))
                self.fresh += len(shard["findings"])
                self._queues = {}
        return self.fresh

    def next(self, size: int, small: float | None = None) -> Batch:
        """A batch of `size` images with one grid; a share `small` of them holds a small finding (None: as drawn)."""
        if time.monotonic() - self._read > REFRESH_S:
            self.refresh()
            self._read = time.monotonic()
        grids = list(self._kinds)
        counts = np.array([sum(map(len, self._kinds[grid])) for grid in grids])
        grid = grids[int(self.rng.choice(len(grids), p=counts / counts.sum()))]
        plain, rare = map(len, self._kinds[grid])
        share = rare / (plain + rare) if small is None or not plain or not rare else small
        wanted = int(self.rng.binomial(size, share))
        chosen = self._take(grid, 1, wanted) + self._take(grid, 0, size - wanted)
        moved = [self._move(self.shards[shard][1][i], self.shards[shard][2][i]) for shard, i in chosen]
        return Batch(self._augment(np.stack([m[0] for m in moved])), [m[1] for m in moved], grid)

    def _take(self, grid: tuple[int, int], kind: int, count: int) -> list[Place]:
        queue = self._queues.setdefault((grid, kind), [])
        while len(queue) < count:
            queue[:0] = [self._kinds[grid][kind][i] for i in self.rng.permutation(len(self._kinds[grid][kind]))]
        chosen = queue[len(queue) - count :]
        del queue[len(queue) - count :]
        return chosen

    def _move(
        self, pixels: npt.NDArray[np.uint8], findings: tuple[Finding, ...]
    ) -> tuple[npt.NDArray[np.uint8], tuple[Finding, ...]]:
        """Scales each axis by up to 8 % and shifts by up to 8 pixels (black comes in); the boxes follow."""
        high, wide = pixels.shape
        pixels = self._splinter(pixels, findings)
        scale_x, scale_y = self.rng.uniform(0.92, 1.08, 2)
        dx, dy = self.rng.uniform(-8, 8, 2)
        # Output to input, about the centre: x_in = (x - wide / 2 - dx) / scale_x + wide / 2
        inverse = (1 / scale_x, 0.0, wide / 2 - (wide / 2 + dx) / scale_x,
                   0.0, 1 / scale_y, high / 2 - (high / 2 + dy) / scale_y)  # fmt: skip
        image = Image.fromarray(pixels).transform(
            (wide, high), Image.Transform.AFFINE, inverse, Image.Resampling.BICUBIC
        )
        x_off, y_off = 500 * (1 - scale_x) + 1000 * dx / wide, 500 * (1 - scale_y) + 1000 * dy / high
        moved = []
        for item in findings:
            x1, y1, x2, y2 = item.box
            box = np.clip(
                (x1 * scale_x + x_off, y1 * scale_y + y_off, x2 * scale_x + x_off, y2 * scale_y + y_off), 0, 1000
            )
            moved.append(replace(item, box=(float(box[0]), float(box[1]), float(box[2]), float(box[3]))))
        return np.asarray(image), tuple(moved)

    def _splinter(self, pixels: npt.NDArray[np.uint8], findings: tuple[Finding, ...]) -> npt.NDArray[np.uint8]:
        """Draws other splinters into each fracture than those that are there."""
        boxes = [f.box for f in findings if f.label == FRACTURE] if self.splinters else []
        if not boxes:
            return pixels
        high, wide = pixels.shape
        plane = pixels.astype(np.float32) / np.float32(255)
        for x1, y1, x2, y2 in boxes:
            scaled = (x1 * wide / 1000, y1 * high / 1000, x2 * wide / 1000, y2 * high / 1000)
            add_splinters(plane, scaled, self.rng)
        return (np.clip(plane, 0, 1) * 255).astype(np.uint8)

    def _augment(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        x = pixels.astype(np.float32)
        count = len(x)
        gain = self.rng.uniform(0.88, 1.12, (count, 1, 1)).astype(np.float32)
        shift = self.rng.uniform(-12, 12, (count, 1, 1)).astype(np.float32)
        noise = self.rng.uniform(0.0, 3.0, (count, 1, 1)).astype(np.float32)
        x = (x - 110) * gain + 110 + shift + noise * self.rng.standard_normal(x.shape, dtype=np.float32)
        return torch.from_numpy(np.clip(x, 0, 255))
