"""Rows of `retrievals`: what is asked of archives, claimed by lease, settled by whoever holds the token."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from hilum.adapters.sql.database import reading, transaction
from hilum.adapters.sql.tables import retrievals


class Kind(StrEnum):
    MISSING = "missing"
    """Images of the study itself that are not here."""
    SEARCH = "search"
    """Which earlier studies there are."""
    PRIOR = "prior"
    """The images of one earlier study."""


class State(StrEnum):
    ASKED = "asked"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


SETTLED = (State.DONE, State.FAILED)


@dataclass(frozen=True, slots=True)
class Claimed:
    """`attempts` counts this one."""

    study: str
    kind: Kind
    target: str
    attempts: int
    token: int
    archive: str
    study_date: str
    asked_at: datetime


def ask(
    connection: Connection,
    study: str,
    kind: Kind,
    target: str,
    *,
    now: datetime,
    archive: str = "",
    study_date: str = "",
) -> None:
    """Asks, or asks again from the start what was settled. What is under way goes on."""
    of_this = _is(study, kind, target)
    known: Any = connection.execute(sa.select(retrievals.c.state).where(of_this)).one_or_none()
    fresh: dict[str, Any] = {
        "state": State.ASKED,
        "attempts": 0,
        "lease_until": None,
        "due_at": now,
        "reason": "",
        "archive": archive,
        "sender_ae": "",
        "came": 0,
        "study_date": study_date,
        "asked_at": now,
        "started_at": None,
        "finished_at": None,
    }
    if known is None:
        connection.execute(
            sa.insert(retrievals).values(
                study_instance_uid=study, kind=kind, target_uid=target, token=0, instances=[], **fresh
            )
        )
    elif known.state in SETTLED:
        connection.execute(sa.update(retrievals).where(of_this).values(**fresh))


def claim(engine: Engine, *, now: datetime, lease: timedelta, attempts: int) -> Claimed | None:
    """Takes the one that is due for longest; one that ended its process so many times is given up.

    Raises:
        Busy: the database is away.
    """
    table = retrievals.c
    due = sa.or_(
        sa.and_(table.state == State.ASKED, table.due_at <= now),
        sa.and_(table.state == State.RUNNING, table.lease_until <= now),
    )
    query = sa.select(retrievals).where(due).order_by(table.due_at, table.asked_at).limit(1)
    with reading(engine) as connection:
        if connection.execute(query).first() is None:
            return None
    with transaction(engine) as connection:
        row: Any = connection.execute(query).first()
        if row is None:
            return None
        of_this = _is(row.study_instance_uid, row.kind, row.target_uid)
        if row.attempts >= attempts:
            words = f"given up after {row.attempts} attempts, the last of which ended with its process"
            connection.execute(
                sa.update(retrievals)
                .where(of_this)
                .values(state=State.FAILED, reason=words, lease_until=None, finished_at=now)
            )
            return None
        connection.execute(
            sa.update(retrievals)
            .where(of_this)
            .values(
                state=State.RUNNING,
                attempts=row.attempts + 1,
                token=row.token + 1,
                lease_until=now + lease,
                started_at=row.started_at or now,
            )
        )
    return Claimed(
        row.study_instance_uid,
        Kind(row.kind),
        row.target_uid,
        row.attempts + 1,
        row.token + 1,
        row.archive,
        row.study_date,
        row.asked_at,
    )


def renew(connection: Connection, claimed: Claimed, *, until: datetime) -> bool:
    """Shows life; False when another has claimed it meanwhile."""
    return _update(connection, claimed, lease_until=until)


def will_ask_for(connection: Connection, claimed: Claimed, instances: Sequence[str], *, sender_ae: str) -> bool:
    """Puts down what is about to be asked for, to be committed before it is; False when another has claimed it."""
    known = connection.execute(
        sa.select(retrievals.c.instances).where(_is(claimed.study, claimed.kind, claimed.target))
    ).scalar_one()
    return _update(connection, claimed, instances=list(dict.fromkeys([*known, *instances])), sender_ae=sender_ae[:16])


def settle(
    connection: Connection, claimed: Claimed, state: State, *, reason: str, now: datetime, due_at: datetime, came: int
) -> bool:
    """Ends an attempt; with `State.ASKED` it is due again. False when another has claimed it: nothing is written."""
    finished = now if state in SETTLED else None
    return _update(
        connection,
        claimed,
        state=state,
        reason=reason,
        due_at=due_at,
        came=came,
        lease_until=None,
        finished_at=finished,
    )


def _update(connection: Connection, claimed: Claimed, **values: Any) -> bool:
    of_this = _is(claimed.study, claimed.kind, claimed.target)
    held = sa.and_(of_this, retrievals.c.token == claimed.token, retrievals.c.state == State.RUNNING)
    return connection.execute(sa.update(retrievals).where(held).values(**values)).rowcount > 0


def _is(study: str, kind: str, target: str) -> sa.ColumnElement[bool]:
    table = retrievals.c
    return sa.and_(table.study_instance_uid == study, table.kind == kind, table.target_uid == target)
