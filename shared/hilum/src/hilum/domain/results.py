"""The canonical result, from which every format is encoded, and the states of a study and of a delivery."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from hilum.domain.findings import Findings
from hilum.domain.identity import derive_uid, digest_of
from hilum.domain.study import StudyHeader


class AiState(StrEnum):
    """How a revision of a study ended for the AI; each revision ends in exactly one."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    NOT_APPLICABLE = "not_applicable"
    FAILED = "failed"
    TOO_LATE = "too_late"


class StudyState(StrEnum):
    """Where a revision stands before it ends."""

    RECEIVING = "receiving"
    COMPLETE = "complete"
    WAITING = "waiting"
    RUNNING = "running"


class DeliveryState(StrEnum):
    """`accepted`: the peer said yes. `parked`: a person must look. `withheld`: a rule forbids sending it."""

    QUEUED = "queued"
    SENDING = "sending"
    ACCEPTED = "accepted"
    PARKED = "parked"
    SUPERSEDED = "superseded"
    WITHHELD = "withheld"


class Format(StrEnum):
    SR = "sr"
    FHIR = "fhir"
    ORU = "oru"


@dataclass(frozen=True, slots=True)
class Ended:
    """The end state of one revision, with its reason in words that a radiologist and imaging IT understand."""

    study_instance_uid: str
    revision: int
    state: AiState
    reason: str
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class Result:
    """The one canonical value: SR, FHIR and HL7 are encodings of it and of nothing else.

    Attributes:
        time_zone: IANA name of the site's zone, in which local times are written.
        predecessor_sr_uid: SOP Instance UID of the SR that this one supersedes, or empty.
        predecessor_series_uid: the series of that SR, or empty.
    """

    header: StudyHeader
    findings: Findings
    state: AiState
    created_at: datetime
    time_zone: str
    institution: str = ""
    predecessor_sr_uid: str = ""
    predecessor_series_uid: str = ""

    @property
    def key(self) -> str:
        """The identity of this result: revision and model digest. 32 hex digits. First result per key wins."""
        return result_key(self.findings.study_instance_uid, self.findings.revision, self.findings.model.digest)

    @property
    def sr_instance_uid(self) -> str:
        return derive_uid("sr", self.key)

    @property
    def sr_series_uid(self) -> str:
        return derive_uid("sr-series", self.key)

    @property
    def device_uid(self) -> str:
        """Device UID of the algorithm; changes when the model does."""
        return derive_uid("device", self.findings.model.digest)


def result_key(study_instance_uid: str, revision: int, model_digest: str) -> str:
    return digest_of("result", study_instance_uid, str(revision), model_digest)[:32]


def state_of(findings: Findings) -> AiState:
    """Positive when a finding passed its threshold or the report names one without a box, else negative."""
    return AiState.POSITIVE if findings.findings or findings.ungrounded else AiState.NEGATIVE


def describe(findings: Findings) -> str:
    """The end state's reason in one line, e.g. `Nodule 0.91, Fracture 0.74`."""
    if not findings.findings and not findings.ungrounded:
        return f"no finding above the thresholds of {findings.model.name} {findings.model.version}"
    named = [f"{f.label} {f.probability:.2f}" for f in findings.findings]
    named += [f"{label} (in the report, without a box)" for label in findings.ungrounded]
    return ", ".join(named)
