"""The model port over hilum_medmo: prompts, and answers read by MedMO's grammar."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

import hilum_medmo
from hilum.domain.errors import Busy, Reject
from hilum.domain.inference import ModelIdentity, Task, TaskKind, Threshold
from hilum.ports.model import GridFinding, ModelAnswer
from hilum_medmo.grounding import GrammarError, parse, score

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
    """A MedMO behind the `Model` port. Greedy: the same image and task give the same answer.

    Args:
        should_stop: asked before every token; once True, the answer is given up with Busy.
    """

    def __init__(self, medmo: hilum_medmo.MedMO, *, should_stop: Callable[[], bool] = lambda: False) -> None:
        self._medmo = medmo
        self._should_stop = should_stop
        self._identity = _identity(medmo.identity)

    @property
    def identity(self) -> ModelIdentity:
        return self._identity

    @property
    def labels(self) -> tuple[str, ...]:
        return self._medmo.identity.labels

    def prompt(self, task: Task) -> str:
        """The declared prompt of the task; a question as it was asked, control characters and excess length cut.

        Nothing of a DICOM header is ever part of it; hilum_medmo keeps any text from becoming a control token.
        """
        match task.kind:
            case TaskKind.LOCATE | TaskKind.REPORT:
                return self._medmo.identity.prompts.get(task.kind.value) or _PROMPTS[task.kind]
            case TaskKind.QUESTION:
                return _CONTROL.sub(" ", task.question).strip()[:_MAX_QUESTION_CHARS]
            case _:
                assert_never(task.kind)

    def answer(self, task: Task, image: NDArray[np.uint8]) -> ModelAnswer:
        """Asks once; a second greedy attempt would say the same.

        Raises:
            Reject: the request can't be answered, or the answer can't be read.
            Busy: the worker is stopping.
        """
        request = hilum_medmo.Request((image,), self.prompt(task), max_new_tokens=_MAX_NEW_TOKENS[task.kind])
        try:
            generation = self._medmo.generate(request, should_stop=self._should_stop)
        except hilum_medmo.RequestError as error:
            raise Reject(f"the model can't be asked: {error}") from error
        if generation.finish == "cancelled":
            raise Busy("the worker is stopping")
        findings = self._findings(generation) if task.kind is TaskKind.LOCATE else ()
        if generation.finish == "length":
            limit = _MAX_NEW_TOKENS[task.kind]
            raise Reject(f"the model's answer could not be read: it was not finished after {limit} tokens")
        return ModelAnswer(generation.text, findings, generation.timings.total_s)

    def _findings(self, generation: hilum_medmo.Generation) -> tuple[GridFinding, ...]:
        try:
            grounded = parse(generation.text, no_finding=self._medmo.identity.no_finding)
            scores = score(generation, grounded)
        except GrammarError as error:
            raise Reject(f"the model's answer could not be read: {error.reason} at character {error.offset}") from error
        return tuple(
            GridFinding(item.label, (box.x1, box.y1, box.x2, box.y2), scored.confidence)
            for item, of_item in zip(grounded, scores, strict=True)
            for box, scored in zip(item.boxes, of_item, strict=True)
        )


def load(checkpoint: Path, *, threads: int | None, should_stop: Callable[[], bool]) -> MedMOModel:
    """The model of a checkpoint folder.

    Raises:
        hilum_medmo.CheckpointError: the folder holds no usable checkpoint.
    """
    return MedMOModel(hilum_medmo.load(checkpoint, threads=threads), should_stop=should_stop)


def _identity(declared: hilum_medmo.ModelIdentity) -> ModelIdentity:
    return ModelIdentity(
        name=declared.name,
        version=declared.version,
        digest=declared.digest.removeprefix("sha256:"),
        simulation=declared.simulation,
        disclaimer=declared.disclaimer,
        thresholds={label: Threshold(each.report, each.urgent) for label, each in declared.thresholds.items()},
    )
