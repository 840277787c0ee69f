"""From a request to findings: pixels, questions to the model, checks. Knows no database."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from hilum.adapters.dicom.pixels import SquareFrame, model_frame
from hilum.domain.errors import HilumError, Reject, Retry
from hilum.domain.findings import Answer, Dropped, Findings, Grounded, accept
from hilum.domain.geometry import GridBox, to_pixels
from hilum.domain.identity import digest_of
from hilum.domain.inference import ImageReference, InferenceRequest, TaskKind
from hilum.ports.clock import Clock
from hilum.ports.instances import InstanceStore
from hilum.ports.model import GridFinding, Model
from hilum_worker.handlers.mentions import present


class Decode(Protocol):
    """As `hilum.adapters.dicom.pixels.model_frame`, which raises no `Retry`; one that decodes elsewhere may."""

    def __call__(self, path: Path, frame: int, *, longest_side: int) -> SquareFrame: ...


@dataclass
class _Said:
    """What the model said so far about all images of a request."""

    grounded: list[Grounded] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    decode_s: float = 0.0
    model_s: float = 0.0


def examine(
    request: InferenceRequest,
    model: Model,
    store: InstanceStore,
    clock: Clock,
    *,
    claimed_at: datetime,
    longest_side: int = 1024,
    decode: Decode = model_frame,
) -> Findings:
    """Asks the model every task about every image, one image at a time, and checks what it says.

    Raises:
        Reject: an image can't be shown or an answer can't be read; the reason names the image when there are several.
        Retry: an image isn't there yet, or one attempt failed.
        Busy: the model is away.
    """
    if not request.images:
        raise Reject("the request names no image")
    said = _Said()
    for number, image in enumerate(request.images, start=1):
        place = f"image {number} of {len(request.images)}" if len(request.images) > 1 else ""
        try:
            start = time.perf_counter()
            frame = show(image, store, longest_side=longest_side, decode=decode)
            said.decode_s += time.perf_counter() - start
            _ask_about(image, frame, place, request, model, said)
        except (Reject, Retry) as error:
            if place:
                raise type(error)(f"{place}: {error.reason}") from error
            raise
    return _findings(request, model, said, clock, queue_s=(claimed_at - request.requested_at).total_seconds())


def _findings(request: InferenceRequest, model: Model, said: _Said, clock: Clock, *, queue_s: float) -> Findings:
    """Thresholds applied, and the report compared with the boxes."""
    kept, below = accept(
        said.grounded, model.identity, study_instance_uid=request.study_instance_uid, revision=request.revision
    )
    boxed = {finding.label for finding in kept}
    report = "\n".join(said.reports)
    return Findings(
        request_id=request.request_id,
        study_instance_uid=request.study_instance_uid,
        revision=request.revision,
        model=model.identity,
        prompt_digest=digest_of(*(model.prompt(task) for task in request.tasks)),
        images=request.images,
        findings=kept,
        dropped=(*said.dropped, *below),
        report=report,
        ungrounded=tuple(label for label in present(report, model.labels) if label not in boxed),
        answers=tuple(said.answers),
        produced_at=clock.now(),
        timings_s=(("decode", said.decode_s), ("model", said.model_s), ("queue", max(queue_s, 0.0))),
    )


def show(
    image: ImageReference, store: InstanceStore, *, longest_side: int = 1024, decode: Decode = model_frame
) -> SquareFrame:
    """The frame that the reference names, as the model sees it.

    Raises:
        Reject: it can't be decoded, or isn't the image that the request speaks of.
        Retry: the file can't be read now, or its decoder died.
    """
    path = store.path(image.uri)
    try:
        frame = decode(path, image.frame, longest_side=longest_side)
    except OSError as error:
        raise Retry(f"the image's file can't be read: {type(error).__name__}") from error
    if (frame.rows, frame.columns) != (image.rows, image.columns):
        stored = f"{frame.rows} x {frame.columns}"
        raise Reject(f"the stored image is {stored} pixels, the request says {image.rows} x {image.columns}")
    return frame


def _ask_about(
    image: ImageReference, frame: SquareFrame, place: str, request: InferenceRequest, model: Model, said: _Said
) -> None:
    for task in request.tasks:
        answer = model.answer(task, frame.pixels, lane=request.lane)
        said.model_s += answer.seconds
        text = answer.text.strip()
        match task.kind:
            case TaskKind.LOCATE:
                _locate(answer.findings, image, model.labels, said)
            case TaskKind.REPORT if text:
                said.reports.append(f"{place.capitalize()}: {text}" if place else text)
            case TaskKind.QUESTION:
                said.answers.append(Answer(f"{task.question} ({place})" if place else task.question, text))
            case TaskKind.REPORT:
                said.dropped.append(Dropped("report", "the model's report is empty"))


def _locate(found: Sequence[GridFinding], image: ImageReference, labels: Sequence[str], said: _Said) -> None:
    known = {label.casefold(): label for label in labels}
    for item in found:
        label = known.get(item.label.casefold(), item.label if not labels else "")
        if not label:
            said.dropped.append(Dropped(item.label, "not one of the labels that this model was trained on"))
            continue
        try:
            box = to_pixels(GridBox(*item.box), rows=image.rows, columns=image.columns)
        except HilumError as error:
            said.dropped.append(Dropped(label, error.reason))
            continue
        said.grounded.append(Grounded(label, box, image, item.probability))
