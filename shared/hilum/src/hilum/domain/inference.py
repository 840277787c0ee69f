"""What is asked of the model, and which model answered."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from hilum.domain.identity import digest_of


class Lane(StrEnum):
    STAT = "stat"
    URGENT = "urgent"
    ROUTINE = "routine"


class TaskKind(StrEnum):
    LOCATE = "locate"
    REPORT = "report"
    QUESTION = "question"


@dataclass(frozen=True, slots=True)
class Task:
    """One request to the model. `question` is set for a question and empty for the other kinds."""

    kind: TaskKind
    question: str = ""

    def __post_init__(self) -> None:
        if (self.kind is TaskKind.QUESTION) != bool(self.question):
            raise ValueError("a question task has a question, the others have none")


@dataclass(frozen=True, slots=True)
class ImageReference:
    """One frame of one instance. `frame` counts from 1, as in PS3.3 C.12 Referenced Frame Number."""

    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    uri: str
    frame: int
    frames: int
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class PriorReference:
    """Images of an earlier study of the same patient, for comparison. `study_date`: `YYYYMMDD`."""

    study_instance_uid: str
    study_date: str
    images: tuple[ImageReference, ...]


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """`priors`, newest first, are there for models that compare; a model may leave them aside, as MedMO-Nano does."""

    study_instance_uid: str
    revision: int
    lane: Lane
    tasks: tuple[Task, ...]
    images: tuple[ImageReference, ...]
    rule: str
    last_received_at: datetime
    requested_at: datetime
    priors: tuple[PriorReference, ...] = ()

    @property
    def request_id(self) -> str:
        """Idempotency key: one request per revision. 32 hex digits."""
        return digest_of("request", self.study_instance_uid, str(self.revision))[:32]


@dataclass(frozen=True, slots=True)
class Threshold:
    """Probabilities, 0 to 1, of one label of one model version.

    Attributes:
        report: a finding below this is not reported.
        urgent: a finding at or above this lifts the study in the reading order.
    """

    report: float
    urgent: float


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model, weights and thresholds made a result.

    Attributes:
        digest: SHA-256 of weights, configuration and tokenizer, 64 hex digits.
        simulation: True for a model that must never reach a destination that isn't a simulation.
        disclaimer: shown with every result.
    """

    name: str
    version: str
    digest: str
    simulation: bool
    disclaimer: str
    manufacturer: str = "Hilum"
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    default_threshold: Threshold = Threshold(report=0.0, urgent=1.1)

    def threshold(self, label: str) -> Threshold:
        return self.thresholds.get(label, self.default_threshold)
