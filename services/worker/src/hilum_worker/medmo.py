"""The model port over hilum_medmo: prompts, and answers read by MedMO's grammar."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

import hilum_medmo
from hilum.domain.errors import Busy, Reject
from hilum.domain.inference import Lane, ModelIdentity, Task, TaskKind, Threshold
from hilum.ports.model import GridFinding, ModelAnswer
from hilum_medmo.grounding import GrammarError
from hilum_medmo.identity import checkpoint_digest, read_identity
from hilum_medmo.serving.contract import boxes_of

# MedMO's own requests (arXiv 2602.06965), for checkpoints whose hilum.json declares none.
_PROMPTS = {
    TaskKind.LOCATE: "Detect and localize all abnormalities in this image.",
    TaskKind.REPORT: "Generate a detailed radiology report for this image.",
}
_MAX_NEW_TOKENS = {TaskKind.LOCATE: 1024, TaskKind.REPORT: 512, TaskKind.QUESTION: 128}
_MAX_QUESTION_CHARS = 500
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def default_checkpoint() -> Path:
    """MedMO-Nano, beside the runtime that runs it."""
    return hilum_medmo.nano_checkpoint()


class MedMOModel:
    """A MedMO in this process behind the `Model` port. Greedy: the same image and task give the same answer.

    Args:
        should_stop: asked before every token; once True, the answer is given up with Busy.
    """

    def __init__(self, medmo: hilum_medmo.MedMO, *, should_stop: Callable[[], bool] = lambda: False) -> None:
        self._medmo = medmo
        self._should_stop = should_stop
        self._identity = identity_of(medmo.identity)

    @property
    def identity(self) -> ModelIdentity:
        return self._identity

    @property
    def labels(self) -> tuple[str, ...]:
        return self._medmo.identity.labels

    def prompt(self, task: Task) -> str:
        return prompt_of(task, self._medmo.identity)

    def ready(self) -> None:
        """Always."""

    def answer(self, task: Task, image: NDArray[np.uint8], *, lane: Lane = Lane.ROUTINE) -> ModelAnswer:
        """Asks once; a second greedy attempt would say the same.

        Raises:
            Reject: the request can't be answered, or the answer can't be read.
            Busy: the worker is stopping.
        """
        try:
            request = request_of(task, image, self._medmo.identity)
            generation = self._medmo.generate(request, should_stop=self._should_stop)
        except hilum_medmo.RequestError as error:
            raise Reject(f"the model can't be asked: {error}") from error
        if generation.finish == "cancelled":
            raise Busy("the worker is stopping")
        return read(generation, task, self._medmo.identity)


def prompt_of(task: Task, declared: hilum_medmo.ModelIdentity) -> str:
    """The declared prompt of the task; a question as it was asked, control characters and excess length cut.

    Nothing of a DICOM header is ever part of it; hilum_medmo keeps any text from becoming a control token.
    """
    match task.kind:
        case TaskKind.LOCATE | TaskKind.REPORT:
            return declared.prompts.get(task.kind.value) or _PROMPTS[task.kind]
        case TaskKind.QUESTION:
            return _CONTROL.sub(" ", task.question).strip()[:_MAX_QUESTION_CHARS]
        case _:
            assert_never(task.kind)


def request_of(task: Task, image: NDArray[np.uint8], declared: hilum_medmo.ModelIdentity) -> hilum_medmo.Request:
    """What the model is asked for a task about one image."""
    return hilum_medmo.Request((image,), prompt_of(task, declared), max_new_tokens=_MAX_NEW_TOKENS[task.kind])


def read(generation: hilum_medmo.Generation, task: Task, declared: hilum_medmo.ModelIdentity) -> ModelAnswer:
    """The answer, with the findings of a locate task.

    Raises:
        Reject: it isn't finished, or not in the grammar.
    """
    findings: tuple[GridFinding, ...] = ()
    if task.kind is TaskKind.LOCATE:
        try:
            boxes = boxes_of(generation, declared.no_finding)
        except GrammarError as error:
            raise Reject(f"the model's answer could not be read: {error.reason} at character {error.offset}") from error
        findings = tuple(GridFinding(each.label, each.box, each.confidence) for each in boxes)
    if generation.finish == "length":
        limit = _MAX_NEW_TOKENS[task.kind]
        raise Reject(f"the model's answer could not be read: it was not finished after {limit} tokens")
    return ModelAnswer(generation.text, findings, generation.timings.total_s)


def load(checkpoint: Path, *, threads: int | None, should_stop: Callable[[], bool]) -> MedMOModel:
    """The model of a checkpoint folder.

    Raises:
        hilum_medmo.CheckpointError: the folder holds no usable checkpoint.
    """
    return MedMOModel(hilum_medmo.load(checkpoint, threads=threads), should_stop=should_stop)


def declared(checkpoint: Path) -> hilum_medmo.ModelIdentity:
    """What a checkpoint folder says of its model, without loading it.

    Raises:
        hilum_medmo.CheckpointError: the folder holds no usable checkpoint.
    """
    return read_identity(checkpoint, checkpoint_digest(checkpoint))


def identity_of(declared: hilum_medmo.ModelIdentity) -> ModelIdentity:
    """As the domain knows it."""
    return ModelIdentity(
        name=declared.name,
        version=declared.version,
        digest=declared.digest.removeprefix("sha256:"),
        simulation=declared.simulation,
        disclaimer=declared.disclaimer,
        thresholds={label: Threshold(each.report, each.urgent) for label, each in declared.thresholds.items()},
    )
