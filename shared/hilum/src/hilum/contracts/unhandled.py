"""The end of a revision whose message nobody could handle: it must not vanish with the dead letter."""

from datetime import datetime

from pydantic import Field, ValidationError

from hilum.contracts.messages import Message, StudyEnded, Uid
from hilum.domain.results import AiState


class _About(Message):
    """What every message says of its study, whatever else in it is wrong."""

    study_instance_uid: Uid
    revision: int = Field(ge=1, lt=2**31)


def failed_end(payload: str, *, topic: str, reason: str, now: datetime) -> StudyEnded | None:
    """The end of the revision that `payload` names, or None when it names none that can be read."""
    try:
        about = _About.model_validate_json(payload)
    except ValidationError:
        return None
    return StudyEnded(
        study_instance_uid=about.study_instance_uid,
        revision=about.revision,
        state=AiState.FAILED,
        reason=f"a message about it could not be handled ({topic}): {reason}",
        ended_at=now,
    )
