"""`python -m hilum_worker.bench [--rounds N]`: what a model server costs over the model in process.

MedMO-Nano with one thread on both sides, the same requests, in the order ABBA, so that a machine that warms up or slows
down counts for both alike. Then the way to the server and back alone, with a model that answers at once.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hilum.domain.inference import Task, TaskKind
from hilum.ports.model import Model
from hilum.testing.model_server import ModelServer, medmo_server, waiting_server
from hilum_medmo.model import ModelIdentity
from hilum_medmo.testing.cases import nano_request
from hilum_medmo.testing.waiting import WAITING_IDENTITY
from hilum_worker import medmo
from hilum_worker.triton.model import TritonModel, connect
from hilum_worker.triton.replica import Patience

_LOCATE = Task(TaskKind.LOCATE)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="hilum_worker.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="of ten images each, asked twice on each side")
    given = parser.parse_args(arguments)
    print(f"{platform.machine()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        _nano(Path(folder) / "nano", given.rounds)
        _round_trip(Path(folder) / "waiting")
    return 0


def _nano(folder: Path, rounds: int) -> None:
    checkpoint = medmo.default_checkpoint()
    images = [nano_request(number).images[0] for number in range(10)]
    here = medmo.load(checkpoint, threads=1, should_stop=lambda: False)
    with _started(medmo_server(folder), medmo.declared(checkpoint), "MedMO-Nano") as there:
        for model in (here, there):
            _measure(model, images[:2])
        differences, alone = [], []
        for _ in range(rounds):
            first, second, third, fourth = (_measure(model, images) for model in (here, there, there, here))
            for a, b, c, d in zip(first, second, third, fourth, strict=True):
                differences.append((b + c - a - d) / 2)
                alone.append((a + d) / 2)
    print(f"locate, MedMO-Nano, {len(differences)} pairs: in process median {_ms(statistics.median(alone))}")
    print(f"  Triton over in process: {_spread(differences)}")


def _round_trip(folder: Path) -> None:
    with _started(waiting_server(folder, wait_ms=0), WAITING_IDENTITY, "model that waits") as model:
        for side in (224, 512, 1024, 1280):
            grey = np.full((side, side, 3), 90, np.uint8)
            coloured = grey.copy()
            coloured[..., 1] += 1
            for name, image in (("grey", grey), ("RGB", coloured)):
                _measure(model, [image] * 10)
                print(f"round trip, {side} x {side}, {name}: {_spread(_measure(model, [image] * 100))}")


@contextmanager
def _started(server: ModelServer, declared: ModelIdentity, name: str) -> Iterator[TritonModel]:
    began = time.perf_counter()
    with server:
        print(f"tritonserver with {name}: started in {time.perf_counter() - began:.2f} s, {server.resident_mb()} MB")
        model = connect([server.address], Patience(), declared=declared, digest="", stop=threading.Event())
        assert model is not None
        yield model
        print(f"  in the end {server.resident_mb()} MB")
        model.close()


def _measure(model: Model, images: Sequence[NDArray[np.uint8]]) -> list[float]:
    """Seconds of each answer, as the worker waits for it."""
    return [_seconds(lambda image=image: model.answer(_LOCATE, image)) for image in images]  # type: ignore[misc]


def _seconds(ask: Callable[[], object]) -> float:
    began = time.perf_counter()
    ask()
    return time.perf_counter() - began


def _spread(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    p95 = ordered[int(0.95 * (len(ordered) - 1))]
    return f"median {_ms(statistics.median(ordered))}, p95 {_ms(p95)}, mean {_ms(statistics.mean(ordered))}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


if __name__ == "__main__":
    sys.exit(main())
