"""Studies, series, instances, and when a study is complete."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from hilum.domain.identity import Patient


class OrderPriority(StrEnum):
    """How urgently a person asked for the study, from Requested Procedure Priority (0040,1003)."""

    STAT = "stat"
    URGENT = "urgent"
    ROUTINE = "routine"


_PRIORITY_TERMS = {
    # PS3.3 C.4.11: defined terms of Requested Procedure Priority
    "STAT": OrderPriority.STAT,
    "HIGH": OrderPriority.URGENT,
    "URGENT": OrderPriority.URGENT,
    "ROUTINE": OrderPriority.ROUTINE,
    "MEDIUM": OrderPriority.ROUTINE,
    "LOW": OrderPriority.ROUTINE,
}


def order_priority(term: str) -> OrderPriority:
    """The order's priority from the DICOM term; an absent or unknown term is routine."""
    return _PRIORITY_TERMS.get(term.strip().upper(), OrderPriority.ROUTINE)


@dataclass(frozen=True, slots=True)
class Instance:
    """One stored SOP instance, as its header describes it.

    Attributes:
        uri: where workers read it, resolved by the instance store.
        sha256: digest of the stored bytes, 64 hex digits.
        rows, columns: frame size in pixels, 0 when it has no pixels.
        frames: number of frames, 0 when it has no pixels.
    """

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    uri: str
    sha256: str
    rows: int = 0
    columns: int = 0
    frames: int = 0
    instance_number: int | None = None
    view_position: str = ""
    photometric: str = ""
    presentation_intent: str = ""

    @property
    def has_pixels(self) -> bool:
        return self.rows > 0 and self.columns > 0 and self.frames > 0


@dataclass(frozen=True, slots=True)
class Series:
    series_instance_uid: str
    modality: str
    body_part: str
    description: str
    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class StudyRevision:
    """What is known of a study when it was declared complete: the input of routing. No patient identity in it."""

    study_instance_uid: str
    revision: int
    series: tuple[Series, ...]
    description: str
    order_priority: OrderPriority
    last_received_at: datetime
    completed_at: datetime
    complete_reason: str


@dataclass(frozen=True, slots=True)
class StudyHeader:
    """Patient, order and study attributes that results are written for. Every text may be empty.

    Attributes:
        study_date: `YYYYMMDD`; study_time: `HHMMSS[.FFFFFF]`, in the site's zone.
        utc_offset: Timezone Offset From UTC (0008,0201), `+HHMM`, of the images; empty when they have none.
    """

    study_instance_uid: str
    patient: Patient
    accession_number: str = ""
    accession_issuer: str = ""
    study_id: str = ""
    study_date: str = ""
    study_time: str = ""
    study_description: str = ""
    referring_physician: str = ""
    placer_order_number: str = ""
    filler_order_number: str = ""
    procedure_code: str = ""
    procedure_meaning: str = ""
    procedure_scheme: str = ""
    utc_offset: str = ""


@dataclass(frozen=True, slots=True)
class Complete:
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Not complete; look again at `until` at the latest."""

    until: datetime


def decide_completeness(*, now: datetime, last_received_at: datetime, quiet_time: timedelta) -> Complete | Wait:
    """A study is complete once nothing arrived for the quiet time."""
    until = last_received_at + quiet_time
    if now >= until:
        return Complete(f"no image for {quiet_time.total_seconds():g} s")
    return Wait(until)
