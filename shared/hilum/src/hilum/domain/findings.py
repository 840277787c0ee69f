"""Grounded findings: what the model said, checked before anyone sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from hilum.domain.geometry import PixelBox
from hilum.domain.identity import derive_uid
from hilum.domain.inference import ImageReference, ModelIdentity


@dataclass(frozen=True, slots=True)
class Finding:
    """One label with one box on one frame.

    Attributes:
        probability: the model's confidence, 0 to 1 (hilum_medmo.grounding says how it is computed).
        urgent: True when the probability reaches the label's urgent threshold of this model version.
        tracking_uid: derived from the revision, model and place in the result, never from the content.
    """

    label: str
    box: PixelBox
    image: ImageReference
    probability: float
    urgent: bool
    tracking_uid: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """Something the model said that is not reported, and why. Kept for the evidence."""

    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    question: str
    text: str


@dataclass(frozen=True, slots=True)
class Grounded:
    """A label and box as the parser gives them, before any threshold."""

    label: str
    box: PixelBox
    image: ImageReference
    probability: float


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything the model produced for one request.

    Attributes:
        report: the report text, empty when none was asked for.
        ungrounded: labels that the report mentions as present and that have no box.
        images: the frames that the model was shown.
        timings_s: seconds by step: `queue`, `decode`, `model`.
    """

    request_id: str
    study_instance_uid: str
    revision: int
    model: ModelIdentity
    prompt_digest: str
    images: tuple[ImageReference, ...]
    findings: tuple[Finding, ...]
    dropped: tuple[Dropped, ...]
    report: str
    ungrounded: tuple[str, ...]
    answers: tuple[Answer, ...]
    produced_at: datetime
    timings_s: tuple[tuple[str, float], ...] = ()


def accept(
    grounded: Sequence[Grounded], model: ModelIdentity, *, study_instance_uid: str, revision: int
) -> tuple[tuple[Finding, ...], tuple[Dropped, ...]]:
    """Applies the box checks and the model version's thresholds.

    A box must lie inside its frame; a finding below its label's `report` threshold is dropped with the reason.
    """
    kept: list[Finding] = []
    dropped: list[Dropped] = []
    for candidate in grounded:
        threshold = model.threshold(candidate.label)
        if not candidate.box.is_inside(rows=candidate.image.rows, columns=candidate.image.columns):
            dropped.append(Dropped(candidate.label, "the box reaches outside the image"))
        elif candidate.probability < threshold.report:
            reason = f"probability {candidate.probability:.2f} is below the threshold {threshold.report:.2f}"
            dropped.append(Dropped(candidate.label, reason))
        else:
            uid = derive_uid("finding", study_instance_uid, str(revision), model.digest, str(len(kept)))
            urgent = candidate.probability >= threshold.urgent
            kept.append(Finding(candidate.label, candidate.box, candidate.image, candidate.probability, urgent, uid))
    return tuple(kept), tuple(dropped)
