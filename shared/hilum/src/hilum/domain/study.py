"""Studies, series, instances, and when a study is complete."""

from collections.abc import Collection, Iterable, Sequence
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
class PriorStudy:
    """An earlier study of the same patient that was fetched because a rule asked for it. `study_date`: `YYYYMMDD`."""

    study_instance_uid: str
    study_date: str
    series: tuple[Series, ...]


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
    priors: tuple[PriorStudy, ...] = ()


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


class StepStatus(StrEnum):
    """Performed Procedure Step Status (0040,0252), PS3.3 C.4.14."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


class Sending(StrEnum):
    """How it stands with the associations that brought a study's images since its newest revision."""

    RELEASED = "released"
    OPEN = "open"
    BROKEN = "broken"


_NOT_IMAGES = (
    # PS3.6 A: the storage classes of PS3.4 B.5 whose objects are no images, by the start of their UIDs
    "1.2.840.10008.5.1.4.1.1.9.",  # waveforms
    "1.2.840.10008.5.1.4.1.1.11.",  # presentation states
    "1.2.840.10008.5.1.4.1.1.66.",  # raw data, registrations, segmentations, surfaces
    "1.2.840.10008.5.1.4.1.1.68.",  # surface scan
    "1.2.840.10008.5.1.4.1.1.78.",  # ophthalmic measurements
    "1.2.840.10008.5.1.4.1.1.79.",
    "1.2.840.10008.5.1.4.1.1.88.",  # structured reports, key object selections
    "1.2.840.10008.5.1.4.1.1.80.",
    "1.2.840.10008.5.1.4.1.1.90.",  # content assessments
    "1.2.840.10008.5.1.4.1.1.91.",  # annotations
    "1.2.840.10008.5.1.4.1.1.104.",  # encapsulated documents
    "1.2.840.10008.5.1.4.1.1.200.",  # procedure protocols
    "1.2.840.10008.5.1.4.1.1.481.",  # radiotherapy
)
_RT_IMAGES = frozenset(f"1.2.840.10008.5.1.4.1.1.481.{n}" for n in (1, 23, 24))
_OTHERS_NOT_IMAGES = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{n}"
    # raw data, real world value mapping, stereometric relationship, structured display
    for n in ("66", "67", "77.1.5.3", "131")
)


def holds_images(sop_class_uid: str) -> bool:
    """False for a storage class whose objects are no images; what isn't known is taken for one that does."""
    if sop_class_uid in _RT_IMAGES:
        return True
    return sop_class_uid not in _OTHERS_NOT_IMAGES and not sop_class_uid.startswith(_NOT_IMAGES)


@dataclass(frozen=True, slots=True)
class Listed:
    """A list of images against what is here: how many it names, how many of those aren't here, and how many of those
    that are here it doesn't name."""

    named: int = 0
    missing: int = 0
    unnamed: int = 0

    @property
    def is_here(self) -> bool:
        """All that it names and nothing else."""
        return self.named > 0 and not self.missing and not self.unnamed


def compare(named: Iterable[str], here: Collection[str]) -> Listed:
    """The SOP Instance UIDs of a list against those of the images that are here."""
    listed, present = frozenset(named), frozenset(here)
    return Listed(len(listed), len(listed - present), len(present - listed))


@dataclass(frozen=True, slots=True)
class Step:
    """A performed procedure step of the study. `reason`: why it was discontinued, may be empty."""

    status: StepStatus
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a study that is being received.

    Attributes:
        receiving_since: its first image since the newest revision.
        steps: its performed procedure steps; `performed` compares the images that they list, all together.
        available: the same of availability notifications.
        images: how many are here; `expected`: how many an archive counted since the last one came, None if unknown.
        count_awaited: an archive is being asked, and will answer or be given up.
    """

    receiving_since: datetime
    last_received_at: datetime
    images: int = 0
    steps: tuple[Step, ...] = ()
    performed: Listed = Listed()
    available: Listed = Listed()
    expected: int | None = None
    count_awaited: bool = False
    sending: Sending = Sending.RELEASED


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait: for the next image; for it where an association broke or stays open; for all evidence."""

    quiet_time: timedelta
    unreleased_quiet_time: timedelta
    max_age: timedelta


@dataclass(frozen=True, slots=True)
class Complete:
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Not complete; look again at `until` at the latest."""

    until: datetime


def decide_completeness(evidence: Evidence, patience: Patience, *, now: datetime) -> Complete | Wait:
    """The best evidence there is decides: procedure steps, then notifications, then counts, then silence.

    While a step is IN PROGRESS, or something that is listed or counted is missing, only the maximum age completes. A
    list that doesn't name everything that is here (a late image) proves nothing any more; silence then decides.
    """
    deadline = evidence.receiving_since + patience.max_age
    waiting_for = _missing(evidence)
    if waiting_for:
        if now >= deadline:
            return Complete(f"the maximum age of {_seconds(patience.max_age)} is reached, {waiting_for}")
        return Wait(deadline)
    ended = _how_it_ended(evidence.steps)
    if evidence.performed.is_here:
        return Complete(f"{ended or 'the procedure step is over'}, its {_images(evidence.performed.named)} here")
    if evidence.available.is_here:
        return Complete(f"an availability notification came, its {_images(evidence.available.named)} here")
    if evidence.expected and evidence.sending is Sending.RELEASED:
        return Complete(f"the archive was asked, its {_images(evidence.expected)} here")
    return _silence(evidence, patience, ended, now=now)


def _missing(evidence: Evidence) -> str:
    """What must come before anything but age can complete the study, in words; empty when nothing must."""
    if any(step.status is StepStatus.IN_PROGRESS for step in evidence.steps):
        return "a procedure step is still IN PROGRESS"
    for listed, by in ((evidence.performed, "the procedure step"), (evidence.available, "the notification")):
        if listed.missing:
            return f"{listed.missing} of {listed.named} images that {by} names are missing"
        if listed.is_here:
            return ""
    if evidence.expected is not None and evidence.expected > evidence.images:
        return (
            f"{evidence.expected - evidence.images} of {evidence.expected} images that the archive counts are missing"
        )
    return "the archive has not answered yet" if evidence.count_awaited else ""


def _how_it_ended(steps: Sequence[Step]) -> str:
    """A discontinued step says more than a completed one; empty without steps."""
    for step in steps:
        if step.status is StepStatus.DISCONTINUED:
            return f"the procedure step was discontinued ({step.reason or 'no reason given'})"
    return "the procedure step is completed" if steps else ""


def _silence(evidence: Evidence, patience: Patience, ended: str, *, now: datetime) -> Complete | Wait:
    deadline = evidence.receiving_since + patience.max_age
    quiet = patience.quiet_time
    if evidence.sending is not Sending.RELEASED:
        quiet = max(quiet, patience.unreleased_quiet_time)
    until = evidence.last_received_at + quiet
    if now < min(until, deadline):
        return Wait(min(until, deadline))
    if now < until:
        return Complete(f"the maximum age of {_seconds(patience.max_age)} is reached, images still arrive")
    how = {
        Sending.RELEASED: "",
        Sending.OPEN: " on an association that is still open",
        Sending.BROKEN: " after an association broke",
    }[evidence.sending]
    silence = f"no image for {_seconds(quiet)}{how}"
    return Complete(f"{ended}, {silence}" if ended else silence)


def _seconds(duration: timedelta) -> str:
    return f"{duration.total_seconds():g} s"


def _images(count: int) -> str:
    return "one image is" if count == 1 else f"{count} images are all"
