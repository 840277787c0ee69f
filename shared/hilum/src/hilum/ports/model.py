"""The model, whatever runs it."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hilum.domain.inference import Lane, ModelIdentity, Task


@dataclass(frozen=True, slots=True)
class GridFinding:
    """One label and box as the model placed it on the 0-1000 grid (x1, y1, x2, y2), before any check.

    `probability` is the confidence of label and box, 0 to 1.
    """

    label: str
    box: tuple[int, int, int, int]
    probability: float


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """`text` is what the model wrote; `findings` is set for a locate task only. `seconds` is the model's own time."""

    text: str
    findings: tuple[GridFinding, ...]
    seconds: float


class Model(Protocol):
    """Raises Reject when an answer can't be read, Retry when one attempt failed, Busy when the model is away."""

    @property
    def identity(self) -> ModelIdentity: ...

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels this model knows, used to look for findings that a report names."""
        ...

    def prompt(self, task: Task) -> str:
        """The prompt that this model is asked for a task; its digest goes into the evidence."""
        ...

    def ready(self) -> None:
        """Raises Busy when it is already known that nothing can be asked now. Asks nobody, costs nothing."""
        ...

    def answer(self, task: Task, image: NDArray[np.uint8], *, lane: Lane = Lane.ROUTINE) -> ModelAnswer:
        """Asks about one image, shape (rows, columns, 3), RGB, square pixels; `lane` is its place among others."""
        ...
