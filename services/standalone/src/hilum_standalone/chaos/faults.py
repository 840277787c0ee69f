"""The killer: from a seed, what is hit next, how, and when."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from hilum_standalone.chaos.cuts import Cuts
from hilum_standalone.chaos.units import Unit

_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: between two faults, how long what was killed stays down, how long a pause lasts."""

    between_s: tuple[float, float] = (1.5, 4.0)
    down_s: tuple[float, float] = (0.2, 2.0)
    pause_s: tuple[float, float] = (1.0, 5.0)


@dataclass
class Killer:
    """Draws without replacement until everything was hit in every way, then again."""

    units: Sequence[Unit]
    cuts: Cuts
    seed: int
    pace: Pace
    say: Callable[[str], None]
    count: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def run(self, faults: int, *, going_on: Callable[[], bool]) -> None:
        """So many faults, and more as long as `going_on`; returns when everything that was hit is back."""
        chance = random.Random(self.seed)
        watching = threading.Event()
        # The pool's threads outlive what they start: the kernel ends a server when the thread that made it ends.
        pool = ThreadPoolExecutor(len(self.units) + 1)
        pool.submit(self._watch, watching)
        under_way: list[Future[None]] = []
        deck: list[tuple[str, str]] = []
        try:
            while self.count < faults or going_on():
                deck = deck or self._deck(chance)
                under_way.append(pool.submit(self._hit, *deck.pop(), random.Random(chance.random())))
                self.count += 1
                time.sleep(chance.uniform(*self.pace.between_s))
            for one in under_way:
                one.result(120)
        finally:
            self._pool = pool  # kept: see above
            watching.set()

    def close(self) -> None:
        """After the servers were stopped."""
        self._pool.shutdown(wait=False)

    def _deck(self, chance: random.Random) -> list[tuple[str, str]]:
        deck = [(unit.name, kind) for unit in self.units for kind in ("kill", "kill", "pause")]
        deck += [(name, "cut") for name in self.cuts.names]
        chance.shuffle(deck)
        return deck

    def _hit(self, name: str, kind: str, chance: random.Random) -> None:
        number = self.count
        try:
            if kind == "cut":
                did = f"{self.cuts.cut(name)} connections cut"
            else:
                unit = next(unit for unit in self.units if unit.name == name)
                if kind == "kill":
                    did = unit.kill(chance, down_s=chance.uniform(*self.pace.down_s))
                else:
                    did = unit.pause(chance.uniform(*self.pace.pause_s))
            self.kinds[kind] += 1
            self.say(f"{number:4} {name}: {did}")
        except Exception as error:
            self.errors.append(f"{name}: {kind}: {type(error).__name__}: {error}")
            self.say(f"{number:4} {name}: {kind} failed: {type(error).__name__}: {error}")

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(_LOOK_S):
            for unit in self.units:
                unit.look()
