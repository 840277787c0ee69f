"""What the ledger tells about a study, as frozen values that the console and the `hilum` commands show.

Every class turns into JSON through `to_json`: field names as keys, times as ISO 8601 with offset, boxes in pixels of
the original frame (PS3.3 C.18.6: 0\\0 is the top left corner of the top left pixel).
"""

import dataclasses
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from hilum.domain.geometry import PixelBox
from hilum.domain.identity import Patient
from hilum.domain.results import AiState, DeliveryState, Format, StudyState
from hilum.domain.study import OrderPriority

State = AiState | StudyState


def as_json(value: Any) -> Any:
    """Dataclasses as objects, enums as their values, times in ISO 8601; the rest as it is."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [as_json(item) for item in value]
    return value


@dataclass(frozen=True, slots=True)
class ModelRow:
    name: str
    version: str
    digest: str
    manufacturer: str
    simulation: bool
    disclaimer: str


@dataclass(frozen=True, slots=True)
class FindingBrief:
    label: str
    probability: float
    urgent: bool


def urgent_labels(found: tuple[FindingBrief, ...]) -> tuple[str, ...]:
    """Labels of urgent findings, most probable first, each once."""
    urgent = sorted((f for f in found if f.urgent), key=lambda f: (-f.probability, f.label))
    return tuple(dict.fromkeys(f.label for f in urgent))


@dataclass(frozen=True, slots=True)
class DeliveryBrief:
    """Where one format stands at one destination. `reason`: the peer's last words, or why it waits or is withheld."""

    destination: str
    format: Format
    state: DeliveryState
    attempts: int
    reason: str


@dataclass(frozen=True, slots=True)
class StudyRow:
    """One study for lists.

    Attributes:
        patient: for display to the people who read the study; never for logs.
        waiting_since: when the last image of the first complete revision arrived, so that a late image costs no
            place in the reading order; before that, when the last image so far arrived.
        revision: the newest complete revision, 0 before the first.
        state: the AI state of the newest revision if it ended, else where it stands. `receiving` once a late image
            reopened the study.
        findings, urgent_labels, ungrounded, model: of the newest revision that has a result, which is
            `result_revision`; a new revision takes nothing away before its own result is there.
        deliveries: of that result.
        conflict: why images of this study disagree, or empty.
    """

    study_uid: str
    key: str
    patient: Patient = field(repr=False)
    accession: str = field(repr=False)
    modality: str
    description: str
    study_date: str
    first_received_at: datetime
    last_received_at: datetime
    waiting_since: datetime
    order_priority: OrderPriority
    revision: int
    state: State
    reason: str
    findings: tuple[FindingBrief, ...]
    urgent_labels: tuple[str, ...]
    ungrounded: tuple[str, ...]
    result_revision: int | None
    model: ModelRow | None
    deliveries: tuple[DeliveryBrief, ...]
    conflict: str

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = as_json(self)
        return found


@dataclass(frozen=True, slots=True)
class RouteRow:
    """`lane` is empty when the rules say not applicable."""

    lane: str
    rule: str
    reason: str
    decided_at: datetime


@dataclass(frozen=True, slots=True)
class JobRow:
    state: str
    attempts: int
    last_error: str
    worker: str
    enqueued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


def standing(
    *, route: RouteRow | None, job: JobRow | None, outcome: tuple[AiState, str] | None, complete_reason: str
) -> tuple[State, str]:
    """Where one complete revision stands, and why: its end state if it has one, else the last step that is done."""
    if outcome is not None:
        return outcome
    if route is None:
        return StudyState.COMPLETE, complete_reason
    if not route.lane:
        return StudyState.COMPLETE, f"not applicable, being recorded: {route.reason}"
    if job is None:
        return StudyState.WAITING, f"for the {route.lane} lane ({route.reason or route.rule})"
    again = f"; attempt {job.attempts} failed: {job.last_error}" if job.last_error and job.attempts else ""
    if job.state == "queued":
        return StudyState.WAITING, f"for a free worker in the {route.lane} lane{again}"
    if job.state == "claimed":
        return StudyState.RUNNING, f"attempt {job.attempts}"
    if job.state == "superseded":
        return StudyState.WAITING, "replaced by a newer revision"
    return StudyState.RUNNING, "the model is done, the result is being recorded"


@dataclass(frozen=True, slots=True)
class FindingRow:
    """One finding with its box in pixels of frame `frame` (from 1) of the instance."""

    label: str
    probability: float
    urgent: bool
    box: PixelBox
    sop_instance_uid: str
    frame: int
    rows: int
    columns: int
    tracking_uid: str


@dataclass(frozen=True, slots=True)
class DroppedRow:
    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class AnswerRow:
    question: str
    text: str


@dataclass(frozen=True, slots=True)
class ShownImage:
    """A frame that the model was shown. `frame` counts from 1."""

    sop_instance_uid: str
    frame: int
    frames: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class ResultRow:
    """What the model said about one revision. `timings_s`: seconds by step (queue, decode, model)."""

    result_key: str
    state: AiState
    model: ModelRow
    findings: tuple[FindingRow, ...]
    dropped: tuple[DroppedRow, ...]
    report: str
    answers: tuple[AnswerRow, ...]
    ungrounded: tuple[str, ...]
    images: tuple[ShownImage, ...]
    prompt_digest: str
    produced_at: datetime
    created_at: datetime
    timings_s: dict[str, float]
    formats: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AttemptRow:
    attempt: int
    started_at: datetime
    seconds: float
    outcome: str
    words: str


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    revision: int
    destination: str
    format: Format
    state: DeliveryState
    reason: str
    created_at: datetime
    accepted_at: datetime | None
    due_at: datetime
    attempts: tuple[AttemptRow, ...]


@dataclass(frozen=True, slots=True)
class RevisionRow:
    """One complete revision, from its last image to its deliveries."""

    revision: int
    state: State
    reason: str
    instance_count: int
    last_received_at: datetime
    completed_at: datetime
    complete_reason: str
    ended_at: datetime | None
    route: RouteRow | None
    job: JobRow | None
    result: ResultRow | None
    deliveries: tuple[DeliveryRow, ...]


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One stored instance. Sizes in pixels, all 0 when it has no pixels."""

    sop_instance_uid: str
    series_instance_uid: str
    modality: str
    body_part: str
    series_description: str
    instance_number: int | None
    view_position: str
    photometric: str
    rows: int
    columns: int
    frames: int
    uri: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class RetrievalRow:
    """What archives were asked for because of a study.

    Attributes:
        kind: `missing` (images of its own), `search` (which earlier studies there are) or `prior` (one of those).
        state: asked, running, done or failed, and in `reason` why.
        asked, came: how many images were asked for, and how many of them the newest attempt brought.
        target_uid, study_date, images: of the earlier study, and those of its images that are here.
    """

    kind: str
    state: str
    reason: str
    archive: str
    attempts: int
    asked: int
    came: int
    due_at: datetime
    target_uid: str
    study_date: str
    images: tuple[ImageRow, ...] = ()


@dataclass(frozen=True, slots=True)
class StudyDetail:
    """Everything the ledger knows about one study. `revisions` are newest first, earlier studies too."""

    row: StudyRow
    study_time: str
    calling_ae: str
    revisions: tuple[RevisionRow, ...]
    images: tuple[ImageRow, ...]
    retrievals: tuple[RetrievalRow, ...] = ()

    @property
    def priors(self) -> tuple[RetrievalRow, ...]:
        """The earlier studies that were asked for."""
        return tuple(row for row in self.retrievals if row.kind == "prior")

    @property
    def state(self) -> State:
        return self.row.state

    @property
    def latest(self) -> RevisionRow | None:
        """The newest revision that has a result."""
        return next((r for r in self.revisions if r.result is not None), None)

    def to_json(self) -> dict[str, Any]:
        """The row's fields at the top (`state` among them), the newest result in full beside them, then all revisions.

        `findings` have their pixel boxes; `report`, `answers`, `dropped`, `ungrounded` and `deliveries` are those of
        `result_revision`, empty while there is no result.
        """
        latest = self.latest
        result = latest.result if latest else None
        return {
            **self.row.to_json(),
            "study_time": self.study_time,
            "calling_ae": self.calling_ae,
            "findings": as_json(result.findings) if result else [],
            "dropped": as_json(result.dropped) if result else [],
            "report": result.report if result else "",
            "answers": as_json(result.answers) if result else [],
            "timings_s": result.timings_s if result else {},
            "deliveries": as_json(latest.deliveries) if latest else [],
            "images": as_json(self.images),
            "revisions": as_json(self.revisions),
            "retrievals": as_json(self.retrievals),
        }


@dataclass(frozen=True, slots=True)
class QuarantineRow:
    """Received bytes that could not be indexed; they are kept where `uri` says."""

    uri: str
    sop_instance_uid: str
    study_instance_uid: str
    reason: str
    calling_ae: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class DeadLetterRow:
    consumer_group: str
    topic: str
    offset: int
    key: str
    reason: str
    created_at: datetime
