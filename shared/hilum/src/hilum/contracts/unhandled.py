"""What follows from a message that nobody could handle: the end of its revision, and a notice for whoever watches."""

import hashlib
from datetime import datetime
from typing import Literal

from pydantic import AwareDatetime, Field, ValidationError

from hilum.contracts.messages import Digest, Message, StudyEnded, Uid
from hilum.contracts.topics import MAX_MESSAGE_BYTES
from hilum.domain.results import AiState


class DeadLetter(Message):
    """A message that could not be handled, without its content. Owner: the service that could not.

    The message itself stays in the table `dead_letters`; `hilum dead-letters replay` publishes it again.
    `attempt` counts how often the service had it before it gave up, from 1.
    """

    schema_version: Literal["dead.letter/1"] = "dead.letter/1"
    consumer_group: str
    topic: str
    partition: int = Field(ge=0)
    offset: int
    reason: str
    attempt: int = Field(ge=1)
    payload_sha256: Digest
    payload_bytes: int = Field(ge=0)
    study_instance_uid: Uid | None = None
    revision: int | None = None
    noted_at: AwareDatetime


class _About(Message):
    """What every message says of its study, whatever else in it is wrong."""

    study_instance_uid: Uid
    revision: int = Field(ge=1, lt=2**31)


def why_unreadable(payload: str) -> str:
    """Why no service can handle this message, whatever its topic; empty when that must be seen from its content."""
    if len(payload.encode("utf-8", "surrogatepass")) > MAX_MESSAGE_BYTES:
        return f"larger than {MAX_MESSAGE_BYTES} bytes"
    if "\x00" in payload or "\\u0000" in payload:
        return "holds a NUL character, which PostgreSQL can't store"
    return ""


def failed_end(payload: str, *, topic: str, reason: str, now: datetime) -> StudyEnded | None:
    """The end of the revision that `payload` names, or None when it names none that can be read."""
    about = _about(payload)
    if about is None:
        return None
    return StudyEnded(
        study_instance_uid=about.study_instance_uid,
        revision=about.revision,
        state=AiState.FAILED,
        reason=f"a message about it could not be handled ({topic}): {reason}",
        ended_at=now,
    )


def notice(
    payload: str, *, group: str, topic: str, partition: int, offset: int, reason: str, attempt: int, now: datetime
) -> DeadLetter:
    """What the topic of dead letters says about a message."""
    about, content = _about(payload), payload.encode("utf-8", "surrogatepass")
    return DeadLetter(
        consumer_group=group,
        topic=topic,
        partition=partition,
        offset=offset,
        reason=reason,
        attempt=attempt,
        payload_sha256=hashlib.sha256(content).hexdigest(),
        payload_bytes=len(content),
        study_instance_uid=about.study_instance_uid if about else None,
        revision=about.revision if about else None,
        noted_at=now,
    )


def _about(payload: str) -> _About | None:
    try:
        return _About.model_validate_json(payload)
    except ValidationError:
        return None
