"""Batches from the pool: one grid per batch, each image used a few times, with light augmentation."""

import pickle
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from hilum_modelops.generator import Finding

KEEP = 1000


@dataclass(frozen=True, slots=True)
class Batch:
    """pixels: float (B, H, W), 0-255; findings with boxes on the 0-1000 grid; grid in patches."""

    pixels: torch.Tensor
    findings: list[tuple[Finding, ...]]
    grid: tuple[int, int]


class Feed:
    """Reads new shards as they appear, forgets the oldest, prefers those used least."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.rng = np.random.default_rng(seed)
        self.seen: set[str] = set()
        self.shards: deque[tuple[tuple[int, int], npt.NDArray[np.uint8], list[tuple[Finding, ...]]]] = deque(maxlen=KEEP)
        self.uses: deque[int] = deque(maxlen=KEEP)
        self.fresh = 0
        self._queue: list[tuple[int, npt.NDArray[np.int64]]] = []

    def refresh(self) -> int:
        """Loads new shards; answers how many images have been generated so far."""
        for path in sorted(self.folder.glob("*.pkl")):
            if path.name not in self.seen:
                self.seen.add(path.name)
                shard = pickle.loads(path.read_bytes())
                self.shards.append((shard["grid"], shard["pixels"], shard["findings"]))
                self.uses.append(0)
                self.fresh += len(shard["findings"])
                self._queue = []
        return self.fresh

    def next(self, size: int) -> Batch:
        """A batch of `size` images from one shard."""
        if not self._queue:
            self.refresh()
            uses = np.asarray(self.uses)
            for shard in np.argsort(uses + self.rng.random(len(uses)) * 0.9)[:24]:
                order = self.rng.permutation(len(self.shards[shard][2]))
                self.uses[shard] += 1
                self._queue.extend((int(shard), order[i : i + size]) for i in range(0, len(order) - size + 1, size))
            self.rng.shuffle(self._queue)  # type: ignore[arg-type]  # a list of tuples shuffles in place
        shard, index = self._queue.pop()
        grid, pixels, findings = self.shards[shard]
        shifted = [self._shift(pixels[i], findings[i]) for i in index]
        return Batch(self._augment(np.stack([s[0] for s in shifted])), [s[1] for s in shifted], grid)

    def _shift(
        self, pixels: npt.NDArray[np.uint8], findings: tuple[Finding, ...]
    ) -> tuple[npt.NDArray[np.uint8], tuple[Finding, ...]]:
        """Moves an image by up to 8 pixels each way (black comes in); the boxes follow."""
        high, wide = pixels.shape
        dy, dx = (int(v) for v in self.rng.integers(-8, 9, 2))
        moved = np.zeros_like(pixels)
        moved[max(dy, 0) : high + min(dy, 0), max(dx, 0) : wide + min(dx, 0)] = pixels[
            max(-dy, 0) : high - max(dy, 0), max(-dx, 0) : wide - max(dx, 0)
        ]
        by_x, by_y = 1000 * dx / wide, 1000 * dy / high
        boxes = [np.clip((f.box[0] + by_x, f.box[1] + by_y, f.box[2] + by_x, f.box[3] + by_y), 0, 1000) for f in findings]
        return moved, tuple(
            replace(f, box=(float(b[0]), float(b[1]), float(b[2]), float(b[3]))) for f, b in zip(findings, boxes, strict=True)
        )

    def _augment(self, pixels: npt.NDArray[np.uint8]) -> torch.Tensor:
        x = pixels.astype(np.float32)
        count = len(x)
        gain = self.rng.uniform(0.88, 1.12, (count, 1, 1)).astype(np.float32)
        shift = self.rng.uniform(-12, 12, (count, 1, 1)).astype(np.float32)
        noise = self.rng.uniform(0.0, 3.0, (count, 1, 1)).astype(np.float32)
        x = (x - 110) * gain + 110 + shift + noise * self.rng.standard_normal(x.shape, dtype=np.float32)
        return torch.from_numpy(np.clip(x, 0, 255))
