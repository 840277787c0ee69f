"""Senders at full rate, which send again what was not acknowledged, as modalities do."""

import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from hilum.domain.identity import derive_uid
from hilum_standalone.samples import Image, Order, write
from hilum_standalone.sender import Item, Outcome, SendError, Target, inspect, send

_SIDE = 96
_LATE_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Sent:
    """One study: `parts` are files that go over one association each; `late` follows when it may be complete."""

    uid: str
    parts: tuple[tuple[Path, ...], ...]
    late: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        return (*(path for part in self.parts for path in part), *self.late)


@dataclass
class Traffic:
    """Sends to all listeners in turn; `acknowledged` are the files that were answered with Success."""

    ports: Sequence[int]
    seed: int
    acknowledged: set[Path] = field(default_factory=set)
    tries: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, studies: Sequence[Sent], *, senders: int) -> None:
        """Returns when every file of every study was acknowledged."""
        with ThreadPoolExecutor(senders) as pool:
            for done in [pool.submit(self._study, study) for study in studies]:
                done.result()

    def _study(self, study: Sent) -> None:
        chance = random.Random(f"{self.seed} {study.uid}")
        for part in study.parts:
            self._send(part, chance)
        if study.late:
            time.sleep(_LATE_AFTER_S)
            self._send(study.late, chance)

    def _send(self, files: Sequence[Path], chance: random.Random) -> None:
        items = [item for item in map(inspect, files) if isinstance(item, Item)]
        while True:
            outcomes: list[Outcome] = []
            target = Target("HILUM", "127.0.0.1", chance.choice(self.ports))
            with suppress(SendError, OSError, RuntimeError):
                send(items, target, calling="MODALITY", done=outcomes.append, timeout_s=10)
            stored = {outcome.path for outcome in outcomes if outcome.sent}
            with self._lock:
                self.tries += 1
                self.acknowledged |= stored
            items = [item for item in items if item.path not in stored]
            if not items:
                return
            time.sleep(chance.uniform(0.1, 0.5))


def make_studies(folder: Path, count: int, seed: int) -> list[Sent]:
    """Radiographs of noise: two images, often over two associations; some with a late third one."""
    chance = random.Random(seed)
    generator = np.random.default_rng(seed)
    return [_study(folder, number, chance, generator, seed) for number in range(count)]


def _study(folder: Path, number: int, chance: random.Random, generator: np.random.Generator, seed: int) -> Sent:
    uid = derive_uid("chaos", str(seed), str(number))
    order = Order(uid, "Chaos^Test", f"C{number}", "19700101", "F", f"C{number}", "Chest", datetime.now(UTC))
    images = 2 + (chance.random() < 0.15)
    files = [
        write(
            folder / f"{number}-{image}.dcm",
            Image(generator.random((_SIDE, _SIDE), dtype=np.float32), "DX", number=image),
            order,
        )
        for image in range(1, images + 1)
    ]
    first, late = files[:2], tuple(files[2:])
    parts = ((files[0],), (files[1],)) if chance.random() < 0.5 else (tuple(first),)
    return Sent(uid, parts, late)
