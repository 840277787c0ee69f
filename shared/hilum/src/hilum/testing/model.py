"""A model whose answers follow from the pixels by a rule that a test can state.

LOCATE: all pixels brighter than `BRIGHT` form one "Nodule", boxed on the 0-1000 grid; its probability is the mean of
those pixels / 255. REPORT: "There is a nodule. No pneumothorax." or "No nodule. No pneumothorax." QUESTION: "Yes." when
there is such a pixel, else "No.". An image whose every pixel is `DEADLY` kills the process, as a decoder's crash would.
"""

import os
import signal
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from hilum.domain.identity import digest_of
from hilum.domain.inference import Lane, ModelIdentity, Task, TaskKind, Threshold
from hilum.ports.model import GridFinding, ModelAnswer

BRIGHT = 200
DEADLY = 13

FAKE_IDENTITY = ModelIdentity(
    name="Fake",
    version="1",
    digest=digest_of("fake model"),
    simulation=True,
    disclaimer="A rule for tests, not for patients.",
    thresholds={"Nodule": Threshold(report=0.5, urgent=0.95), "Pneumothorax": Threshold(report=0.5, urgent=0.9)},
)


class FakeModel:
    """Behind the `Model` port.

    Args:
        before: called before each answer with the task; may raise what a real model would.
        says: answers of given tasks instead of the rule's.
    """

    def __init__(
        self,
        *,
        before: Callable[[Task], None] = lambda _task: None,
        says: Mapping[TaskKind, ModelAnswer] | None = None,
    ) -> None:
        self._before = before
        self._says = dict(says or {})
        self.asked: list[tuple[Task, tuple[int, ...]]] = []
        """Each task with the shape of the image it was asked about."""

    @property
    def identity(self) -> ModelIdentity:
        return FAKE_IDENTITY

    @property
    def labels(self) -> tuple[str, ...]:
        return ("Nodule", "Pneumothorax")

    def prompt(self, task: Task) -> str:
        return task.question or f"fake {task.kind}"

    def ready(self) -> None:
        """Always."""

    def answer(self, task: Task, image: NDArray[np.uint8], *, lane: Lane = Lane.ROUTINE) -> ModelAnswer:
        self.asked.append((task, image.shape))
        self._before(task)
        if (image == DEADLY).all():
            os.kill(os.getpid(), signal.SIGKILL)
        if task.kind in self._says:
            return self._says[task.kind]
        grey = image[..., 0]
        rows, columns = np.nonzero(grey > BRIGHT)
        found = len(rows) > 0
        match task.kind:
            case TaskKind.LOCATE if found:
                return ModelAnswer("Nodule", (_boxed(grey, rows, columns),), 0.01)
            case TaskKind.LOCATE:
                return ModelAnswer("", (), 0.01)
            case TaskKind.REPORT:
                first = "There is a nodule." if found else "No nodule."
                return ModelAnswer(f"{first} No pneumothorax.", (), 0.01)
            case _:
                return ModelAnswer("Yes." if found else "No.", (), 0.01)


def _boxed(grey: NDArray[np.uint8], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> GridFinding:
    height, width = grey.shape
    box = (
        int(columns.min()) * 1000 // width,
        int(rows.min()) * 1000 // height,
        (int(columns.max()) + 1) * 1000 // width,
        (int(rows.max()) + 1) * 1000 // height,
    )
    return GridFinding("Nodule", box, float(grey[rows, columns].mean()) / 255)
