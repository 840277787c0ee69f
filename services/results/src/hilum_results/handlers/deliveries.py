"""Delivery rows: claimed by lease with a fencing token, settled once, superseded by a newer revision.

A claim raises the token, and only the holder of the current token may settle. The holder renews its lease while it
sends; a process that was killed or hangs loses the claim when the lease ends, and the next claim sends the same bytes
under the same identity. One study has one delivery under way at a destination, so revisions arrive in their order.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection

from hilum.adapters.sql.locks import exclusive
from hilum.adapters.sql.tables import deliveries, delivery_attempts, encodings, results
from hilum.domain.results import DeliveryState, Format
from hilum_results.handlers.verdict import Outcome, Verdict

WITHHELD = "a simulator's result goes only to destinations with simulation = true"


@dataclass(frozen=True, slots=True)
class Parcel:
    """One claimed delivery with what is sent.

    Attributes:
        attempt: its number, from 1, counted when it is claimed.
        identity: SOP Instance UID, bundle identifier or MSH-10.
    """

    delivery_id: int
    token: int
    attempt: int
    study_instance_uid: str
    result_key: str
    format: Format
    identity: str
    content: bytes
    started_at: datetime


def claim(
    connection: Connection,
    destination: str,
    format_: Format,
    *,
    simulation: bool,
    now: datetime,
    lease: timedelta,
    in_flight: int = 1,
    waiting_since: datetime | None = None,
) -> Parcel | None:
    """Takes the delivery in this format that is due longest at this destination; None when nothing may be sent now.

    A simulator's result that is queued for a destination that is no simulation (the configuration changed) is
    withheld here and never returned. An older revision whose sender is gone ends as superseded.

    Args:
        in_flight: how many may be under way at this destination, counted in the ledger over all processes.
        waiting_since: takes only what has been due since then or longer.
    """
    exclusive(connection, f"deliveries {destination}")  # what one claim counts is what the next one sees
    if not simulation:
        _withhold(connection, destination)
    _supersede_abandoned(connection, destination, now)
    if _under_way(connection, destination, now) >= in_flight:
        return None
    d = deliveries.c
    row = connection.execute(
        sa.select(deliveries, encodings.c.identity, encodings.c.content)
        .join(encodings, sa.and_(encodings.c.result_key == d.result_key, encodings.c.format == d.format))
        .where(d.destination == destination, d.format == format_.value, _due(waiting_since or now))
        .where(_no_other_of_the_study(now))
        .order_by(d.due_at, d.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=deliveries)  # what intake just supersedes; SQLite has no such clause
    ).first()
    if row is None:
        return None
    connection.execute(
        sa.update(deliveries)
        .where(d.id == row.id)
        .values(
            state=DeliveryState.SENDING.value, token=row.token + 1, attempts=row.attempts + 1, lease_until=now + lease
        )
    )
    return Parcel(
        delivery_id=row.id,
        token=row.token + 1,
        attempt=row.attempts + 1,
        study_instance_uid=row.study_instance_uid,
        result_key=row.result_key,
        format=Format(row.format),
        identity=row.identity,
        content=row.content,
        started_at=now,
    )


def renew(connection: Connection, parcel: Parcel, *, now: datetime, lease: timedelta) -> bool:
    """The holder is still sending: its lease starts anew. False when the claim is another's by now."""
    d = deliveries.c
    done = connection.execute(
        sa.update(deliveries)
        .where(d.id == parcel.delivery_id, d.token == parcel.token, d.state == DeliveryState.SENDING.value)
        .values(lease_until=now + lease)
    )
    return done.rowcount == 1


def waiting(connection: Connection, destination: str, format_: Format, *, now: datetime, in_flight: int) -> int:
    """How many deliveries could be claimed at once: what is due, as far as the destination's limit leaves room."""
    d = deliveries.c
    due = connection.execute(
        sa.select(sa.func.count()).where(d.destination == destination, d.format == format_.value, _due(now))
    ).scalar_one()
    return max(min(due, in_flight - _under_way(connection, destination, now)), 0)


def settle(connection: Connection, parcel: Parcel, verdict: Verdict, *, now: datetime, pause: timedelta) -> bool:
    """Writes the attempt and the delivery's new state; False when the claim is another's by now: nothing changed.

    Args:
        pause: how long after `now` it is due again, for a retry.
    """
    match verdict.outcome:
        case Outcome.ACCEPTED:
            values = {"state": DeliveryState.ACCEPTED.value, "accepted_at": now}
        case Outcome.PARKED:
            values = {"state": DeliveryState.PARKED.value}
        case Outcome.RETRY:
            values = {"state": DeliveryState.QUEUED.value, "due_at": now + max(pause, verdict.not_before)}
    d = deliveries.c
    done = connection.execute(
        sa.update(deliveries)
        .where(d.id == parcel.delivery_id, d.token == parcel.token, d.state == DeliveryState.SENDING.value)
        .values(**values, lease_until=None, reason=verdict.words)
    )
    if done.rowcount != 1:
        return False
    if verdict.outcome is Outcome.RETRY:
        _supersede_if_outdated(connection, parcel)
    connection.execute(
        sa.insert(delivery_attempts).values(
            delivery_id=parcel.delivery_id,
            attempt=parcel.attempt,
            started_at=parcel.started_at,
            seconds=max((now - parcel.started_at).total_seconds(), 0.0),
            outcome=verdict.outcome.value,
            words=verdict.words,
        )
    )
    return True


def next_due(connection: Connection, destination: str, format_: Format) -> datetime | None:
    """When the next delivery of this destination is due or its lease ends; None when nothing waits."""
    d = deliveries.c
    ours = sa.and_(d.destination == destination, d.format == format_.value)
    queued = sa.select(sa.func.min(d.due_at)).where(ours, d.state == DeliveryState.QUEUED.value)
    leased = sa.select(sa.func.min(d.lease_until)).where(ours, d.state == DeliveryState.SENDING.value)
    times = [t for t in (connection.execute(queued).scalar(), connection.execute(leased).scalar()) if t is not None]
    return min(times, default=None)


def release_claims(connection: Connection, *, now: datetime) -> int:
    """Makes every claimed delivery due at once: for a start that knows that no other process holds one."""
    done = connection.execute(
        sa.update(deliveries).where(deliveries.c.state == DeliveryState.SENDING.value).values(lease_until=now)
    )
    return done.rowcount


def supersede_older(connection: Connection, study_instance_uid: str, revision: int) -> int:
    """Ends what still waits for revisions before `revision`; what is being sent just now ends by its own answer."""
    d = deliveries.c
    done = connection.execute(
        sa.update(deliveries)
        .where(d.study_instance_uid == study_instance_uid, d.revision < revision, d.state == DeliveryState.QUEUED.value)
        .values(state=DeliveryState.SUPERSEDED.value, reason=superseded_by(revision))
    )
    return done.rowcount


def superseded_by(revision: int) -> str:
    return f"revision {revision} of the study has a result"


def _supersede_if_outdated(connection: Connection, parcel: Parcel) -> None:
    """A newer result came while this one was being sent: it is not tried again."""
    newest = connection.execute(
        sa.select(sa.func.max(results.c.revision)).where(results.c.study_instance_uid == parcel.study_instance_uid)
    ).scalar()
    if newest is not None:
        supersede_older(connection, parcel.study_instance_uid, newest)


def _due(now: datetime) -> sa.ColumnElement[bool]:
    """Queued and its time has come, or claimed by somebody who is gone."""
    d = deliveries.c
    return sa.or_(
        sa.and_(d.state == DeliveryState.QUEUED.value, d.due_at <= now),
        sa.and_(d.state == DeliveryState.SENDING.value, d.lease_until <= now),
    )


def _under_way(connection: Connection, destination: str, now: datetime) -> int:
    d = deliveries.c
    held = sa.and_(d.state == DeliveryState.SENDING.value, d.lease_until > now)
    return connection.execute(sa.select(sa.func.count()).where(d.destination == destination, held)).scalar_one()


def _no_other_of_the_study(now: datetime) -> sa.ColumnElement[bool]:
    """Nothing else of the row's study is being sent to the row's destination."""
    other = deliveries.alias("other")
    return sa.not_(
        sa.exists().where(
            other.c.study_instance_uid == deliveries.c.study_instance_uid,
            other.c.destination == deliveries.c.destination,
            other.c.id != deliveries.c.id,
            other.c.state == DeliveryState.SENDING.value,
            other.c.lease_until > now,
        )
    )


def _supersede_abandoned(connection: Connection, destination: str, now: datetime) -> None:
    """What a process that is gone was sending, when a newer revision has a result: it would arrive behind that one."""
    d = deliveries.c
    newest = (
        sa.select(sa.func.max(results.c.revision))
        .where(results.c.study_instance_uid == d.study_instance_uid)
        .scalar_subquery()
    )
    left = sa.and_(d.destination == destination, d.state == DeliveryState.SENDING.value, d.lease_until <= now)
    rows = connection.execute(sa.select(d.id, d.token, newest.label("newest")).where(left, newest > d.revision)).all()
    for row in rows:
        connection.execute(
            sa.update(deliveries)
            .where(d.id == row.id, d.token == row.token, d.state == DeliveryState.SENDING.value)
            .values(state=DeliveryState.SUPERSEDED.value, reason=superseded_by(row.newest), lease_until=None)
        )


def _withhold(connection: Connection, destination: str) -> None:
    d = deliveries.c
    simulated = sa.select(results.c.result_key).where(results.c.simulation)
    waiting = d.state.in_([DeliveryState.QUEUED.value, DeliveryState.SENDING.value])
    connection.execute(
        sa.update(deliveries)
        .where(d.destination == destination, waiting, d.result_key.in_(simulated))
        .values(state=DeliveryState.WITHHELD.value, reason=WITHHELD, lease_until=None)
    )
