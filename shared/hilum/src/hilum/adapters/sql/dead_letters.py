"""Messages that no service could handle: kept with the reason, and published again when a person says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from hilum.adapters.sql.event_tables import dead_letters
from hilum.adapters.sql.upsert import insert
from hilum.contracts.topics import DEAD_LETTERS, STUDY_ENDED
from hilum.contracts.trace import carried
from hilum.contracts.unhandled import failed_end, notice
from hilum.domain.identity import study_key
from hilum.ports.events import Outgoing, Publisher, Received

CAUSE = "dead-letter"
"""Header of what a dead letter caused: which message it was."""
REPLAY = "replay-of"
"""Header of a message that was published again: the number of its dead letter."""
_KEY_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter. `payload` is the message as it came, a NUL in it spelled `\\u0000`."""

    id: int
    consumer_group: str
    topic: str
    partition: int
    offset: int
    key: str
    payload: str
    headers: dict[str, str]
    reason: str
    attempt: int
    created_at: datetime
    replayed_at: datetime | None


def keep(
    connection: Connection,
    publisher: Publisher,
    received: Received,
    *,
    group: str,
    reason: str,
    attempt: int,
    now: datetime,
) -> None:
    """Stores the message once; tells the topic of dead letters, and ends the revision that it names as failed.

    The end of an end is not published: nobody could handle that either.
    """
    written = connection.execute(
        insert(connection, dead_letters)
        .values(
            consumer_group=group,
            topic=received.topic,
            partition=received.partition,
            offset=received.offset,
            key=_storable(received.key)[:_KEY_LENGTH],
            payload=_storable(received.payload),
            headers=dict(received.headers),
            reason=_storable(reason),
            attempt=attempt,
            created_at=now,
        )
        .on_conflict_do_nothing()
    )
    if not written.rowcount:
        return
    place = f"{received.topic}@{received.partition}:{received.offset}"
    headers = {**carried(received.headers), CAUSE: place}
    said = notice(
        received.payload,
        group=group,
        topic=received.topic,
        partition=received.partition,
        offset=received.offset,
        reason=reason,
        attempt=attempt,
        now=now,
    )
    key = _storable(received.key)[:_KEY_LENGTH]
    messages = [Outgoing(DEAD_LETTERS.name, key, said.model_dump_json(), headers)]
    ended = failed_end(received.payload, topic=received.topic, reason=reason, now=now)
    if ended is not None and CAUSE not in received.headers:
        messages.append(
            Outgoing(STUDY_ENDED.name, study_key(ended.study_instance_uid), ended.model_dump_json(), headers)
        )
    publisher.publish(connection, messages)


def letters(connection: Connection, *, ids: Sequence[int] = (), open_only: bool = False) -> list[Letter]:
    """Newest first; those named, or all; `open_only` leaves out what was published again."""
    query = sa.select(dead_letters).order_by(dead_letters.c.id.desc())
    if ids:
        query = query.where(dead_letters.c.id.in_(ids))
    if open_only:
        query = query.where(dead_letters.c.replayed_at.is_(None))
    return [Letter(**row) for row in connection.execute(query).mappings()]


def replay(connection: Connection, publisher: Publisher, letter: Letter, *, now: datetime) -> bool:
    """Publishes the message again with its headers; False when somebody did already.

    A revision that the letter ended as failed gets its result all the same: a result takes the place of `failed`.
    """
    mine = sa.and_(dead_letters.c.id == letter.id, dead_letters.c.replayed_at.is_(None))
    if not connection.execute(sa.update(dead_letters).where(mine).values(replayed_at=now)).rowcount:
        return False
    headers: dict[str, Any] = {**letter.headers, REPLAY: str(letter.id)}
    publisher.publish(connection, [Outgoing(letter.topic, letter.key, letter.payload, headers)])
    return True


def _storable(text: str) -> str:
    """Without NUL, which PostgreSQL's text can't hold."""
    return text.replace("\x00", "\\u0000")
