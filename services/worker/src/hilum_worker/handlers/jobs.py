"""The table of jobs: enqueued once, claimed by lease, ended once.

A claim counts the attempt before the work begins, so an image that kills its process runs out of attempts. The token
grows with each claim; whoever lost the lease holds an old token, and what it wants to write is refused.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from hilum.adapters.sql.tables import jobs
from hilum.adapters.sql.upsert import insert
from hilum.contracts.messages import InferenceRequested
from hilum.domain.inference import InferenceRequest, Lane

RANK: Mapping[Lane, int] = {Lane.STAT: 0, Lane.URGENT: 1, Lane.ROUTINE: 2}


class JobState(StrEnum):
    QUEUED = "queued"
    CLAIMED = "claimed"
    DONE = "done"
    FAILED = "failed"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this worker holds until the lease ends. `attempt` counts from 1; `headers` go with what it causes."""

    request: InferenceRequest
    token: int
    attempt: int
    claimed_at: datetime
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exhausted:
    """A job whose attempts are used up without an answer; it is now `failed`, and its study must be told."""

    request: InferenceRequest
    attempts: int
    last_error: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Superseded:
    """A waiting job of a revision that a newer one replaced; its revision must be told."""

    request: InferenceRequest
    headers: Mapping[str, str] = field(default_factory=dict)


def worker_name() -> str:
    """`host:pid`: who holds a lease."""
    return f"{socket.gethostname()[:40]}:{os.getpid()}"


def enqueue(
    connection: Connection, request: InferenceRequest, *, now: datetime, headers: Mapping[str, str] | None = None
) -> tuple[Superseded, ...]:
    """One row per request, whatever often it comes; returns the revisions that this one or a newer one replaces.

    `headers` are kept for the messages that follow from the job.
    """
    values = {
        "request_id": request.request_id,
        "study_instance_uid": request.study_instance_uid,
        "revision": request.revision,
        "lane": request.lane.value,
        "rank": RANK[request.lane],
        "payload": InferenceRequested.from_domain(request).model_dump(mode="json"),
        "headers": dict(headers or {}),
        "state": JobState.QUEUED.value,
        "attempts": 0,
        "token": 0,
        "worker": "",
        "last_error": "",
        "due_at": now,
        "enqueued_at": now,
    }
    done = connection.execute(insert(connection, jobs).values(values).on_conflict_do_nothing())
    return supersede(connection, request.study_instance_uid, now=now) if done.rowcount else ()


def supersede(connection: Connection, study_instance_uid: str, *, now: datetime) -> tuple[Superseded, ...]:
    """Ends the waiting jobs of a study below its highest revision. A running one may finish: its result is true."""
    newest = sa.select(sa.func.max(jobs.c.revision)).where(jobs.c.study_instance_uid == study_instance_uid)
    lower = sa.and_(
        jobs.c.study_instance_uid == study_instance_uid,
        jobs.c.state == JobState.QUEUED.value,
        jobs.c.revision < newest.scalar_subquery(),
    )
    # one that a worker claims just now is waited for, and then is no longer queued
    rows = connection.execute(
        sa.select(jobs.c.request_id, jobs.c.payload, jobs.c.headers).where(lower).with_for_update()
    ).all()
    if rows:
        connection.execute(
            sa.update(jobs)
            .where(jobs.c.request_id.in_([row.request_id for row in rows]))
            .values(state=JobState.SUPERSEDED.value, finished_at=now)
        )
    return tuple(Superseded(_request(row.payload), row.headers) for row in rows)


def claim(
    connection: Connection, *, worker: str, now: datetime, lease: timedelta, max_wait: timedelta, attempts: int
) -> Claim | Exhausted | Superseded | None:
    """Takes the most urgent job: by lane, then the one that waited longest.

    A job that waited longer than `max_wait` counts as stat, so a stream of stat jobs can't starve the rest. A job
    whose lease ended is free again. One that has used up its attempts is ended instead of claimed, as is a waiting
    one whose study has a newer revision.
    """
    free = sa.or_(
        sa.and_(jobs.c.state == JobState.QUEUED.value, jobs.c.due_at <= now),
        sa.and_(jobs.c.state == JobState.CLAIMED.value, jobs.c.lease_until <= now),
    )
    rank = sa.case((jobs.c.enqueued_at <= now - max_wait, 0), else_=jobs.c.rank)
    order = (rank, jobs.c.enqueued_at, jobs.c.request_id)
    free_one = sa.select(jobs).where(free).order_by(*order).limit(1).with_for_update(skip_locked=True)
    row = connection.execute(free_one).one_or_none()
    if row is None:
        return None
    request = _request(row.payload)
    newest = sa.select(sa.func.max(jobs.c.revision)).where(jobs.c.study_instance_uid == row.study_instance_uid)
    if row.revision < connection.execute(newest).scalar_one():
        _end_unclaimed(connection, row, JobState.SUPERSEDED, now)
        return Superseded(request, row.headers)
    if row.attempts >= attempts:
        _end_unclaimed(connection, row, JobState.FAILED, now)
        return Exhausted(request, row.attempts, row.last_error, row.headers)
    connection.execute(
        sa.update(jobs)
        .where(jobs.c.request_id == row.request_id)
        .values(
            state=JobState.CLAIMED.value,
            attempts=row.attempts + 1,
            token=row.token + 1,
            worker=worker,
            lease_until=now + lease,
            started_at=now,
            last_error="",
        )
    )
    return Claim(request, row.token + 1, row.attempts + 1, now, row.headers)


def _end_unclaimed(connection: Connection, row: Any, state: JobState, now: datetime) -> None:
    """Ends a free job without running it; the new token shuts out whoever held it before."""
    ended = {"state": state.value, "token": row.token + 1, "finished_at": now, "lease_until": None}
    connection.execute(sa.update(jobs).where(jobs.c.request_id == row.request_id).values(ended))


def renew(connection: Connection, held: Claim, *, now: datetime, lease: timedelta) -> bool:
    """Prolongs the lease; False when another worker holds the job."""
    return _update(connection, held, lease_until=now + lease)


def end(connection: Connection, held: Claim, state: JobState, *, now: datetime, error: str = "") -> bool:
    """Ends the job; False when another worker holds it, and then nothing may be published."""
    return _update(connection, held, state=state.value, finished_at=now, lease_until=None, last_error=error)


def give_back(
    connection: Connection, held: Claim, *, due_at: datetime, error: str = "", count_attempt: bool = True
) -> bool:
    """Makes the job free again from `due_at` on. An attempt that never really began isn't counted."""
    attempts = held.attempt if count_attempt else held.attempt - 1
    return _update(
        connection,
        held,
        state=JobState.QUEUED.value,
        attempts=attempts,
        due_at=due_at,
        lease_until=None,
        last_error=error,
    )


def free_of_the_dead(connection: Connection, *, now: datetime) -> int:
    """Frees what workers of this machine hold whose processes are gone, without waiting for their leases.

    Returns how many; the attempts stay counted.
    """
    host = worker_name().rsplit(":", 1)[0]
    held = connection.execute(
        sa.select(jobs.c.request_id, jobs.c.worker)
        .where(
            jobs.c.state == JobState.CLAIMED.value,
            jobs.c.lease_until > now,
            jobs.c.worker.startswith(f"{host}:", autoescape=True),
        )
        .with_for_update(skip_locked=True)
    ).all()
    dead = [row.request_id for row in held if not _lives(row.worker)]
    if dead:
        connection.execute(sa.update(jobs).where(jobs.c.request_id.in_(dead)).values(lease_until=now))
    return len(dead)


def _lives(worker: str) -> bool:
    number = worker.rsplit(":", 1)[1]
    if not number.isdigit() or int(number) == os.getpid():  # a number used again: whoever wrote it is gone
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _update(connection: Connection, held: Claim, **values: Any) -> bool:
    mine = sa.and_(
        jobs.c.request_id == held.request.request_id,
        jobs.c.token == held.token,
        jobs.c.state == JobState.CLAIMED.value,
    )
    return connection.execute(sa.update(jobs).where(mine).values(**values)).rowcount == 1


def _request(payload: Any) -> InferenceRequest:
    return InferenceRequested.model_validate(payload).to_domain()
