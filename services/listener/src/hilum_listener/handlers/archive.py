"""What Hilum asks of an archive: how many images a study has, which earlier studies a patient has, and the files."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Protocol

from hilum_listener.handlers.stow import Draft


@dataclass(frozen=True, slots=True)
class Held:
    """One instance that the archive has, by its UIDs."""

    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str


@dataclass(frozen=True, slots=True)
class EarlierStudy:
    """A study of the same patient. `study_date` is None when the archive has none; `body_parts` may be empty."""

    study_instance_uid: str
    study_date: date | None
    modalities: frozenset[str]
    body_parts: frozenset[str]
    instances: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """One instance on its way in. `pieces`: the data set in its transfer syntax, without file meta information; each
    may change after the next is asked for."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    pieces: Iterable[bytes | memoryview]


class Arrivals(Protocol):
    """Where fetched instances are made durable. What was not asked for, or is past the limits, is refused there."""

    @property
    def full(self) -> bool:
        """No more is taken: the limit is reached, or whoever fetches has lost the right to. End the request."""
        ...

    def take(self, fetched: Fetched) -> int:
        """Makes one durable and answers a C-STORE status (0 is success); never raises."""
        ...

    def begin(self) -> Draft:
        """For one that comes as a Part 10 file, kept bit for bit. Raises `OSError` when nothing can be stored now."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many instances came, and how many the archive could not send or Hilum could not keep; of those that C-MOVE
    brings, as the archive has it."""

    completed: int
    failed: int


class Archive(Protocol):
    """Each method raises Retry when the archive is away or busy, and Reject when it refuses what is asked."""

    def instances(self, study_instance_uid: str) -> Sequence[Held]:
        """Every instance of a study; empty when the archive does not know it."""
        ...

    def earlier(self, patient_id: str, issuer: str) -> Sequence[EarlierStudy]:
        """Every study of a patient. With an issuer, only studies whose patient has it or has none stated."""
        ...

    def fetch(self, study_instance_uid: str, wanted: Sequence[Held], arrivals: Arrivals) -> Outcome:
        """Brings instances of one study into `arrivals`, each durable before the archive is told that it arrived.

        With C-MOVE they come to the ordinary front door instead, from the archive's AE title.
        """
        ...


def missing(held: Iterable[Held], here: frozenset[str]) -> tuple[Held, ...]:
    """Those that the archive has and Hilum, with the SOP Instance UIDs in `here`, has not."""
    return tuple(item for item in held if item.sop_instance_uid not in here)


@dataclass(frozen=True, slots=True)
class PriorLimits:
    """At most so many earlier studies, none older than so many days before the current one, none larger."""

    studies: int
    age_days: int
    instances: int


def relevant_priors(
    candidates: Iterable[EarlierStudy],
    *,
    current_uid: str,
    current_date: date,
    modalities: frozenset[str],
    body_parts: frozenset[str],
    limits: PriorLimits,
) -> tuple[EarlierStudy, ...]:
    """The newest earlier studies of the same modality and body part, within the limits, newest first.

    A candidate whose body part the archive does not state is taken: a missing prior is worse than one too many.
    Studies of the current date count as earlier only by their UID being another one.
    """

    def fits(study: EarlierStudy) -> bool:
        if study.study_instance_uid == current_uid or study.study_date is None:
            return False
        age = (current_date - study.study_date).days
        same_part = not study.body_parts or not body_parts or bool(study.body_parts & body_parts)
        return (
            0 <= age <= limits.age_days
            and bool(study.modalities & modalities)
            and same_part
            and 0 < study.instances <= limits.instances
        )

    found = [study for study in candidates if fits(study)]
    found.sort(key=lambda study: (-(study.study_date or date.min).toordinal(), study.study_instance_uid))
    return tuple(found[: limits.studies])
