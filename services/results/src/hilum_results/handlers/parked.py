"""Parking what no destination takes any more, and putting parked deliveries back.

A delivery that is put back keeps its identity, its bytes and its count of attempts, so the receiver can't tell it from
any other resend. This is the results service's code wherever it runs: `hilum deliveries --retry` calls it as well.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from hilum.adapters.sql.tables import deliveries, encodings, results, studies
from hilum.domain.results import DeliveryState, Format
from hilum_results.handlers.deliveries import superseded_by

GONE = "its destination is not in the configuration"
OTHER_KIND = "its destination takes another format now"
NO_BYTES = "it could not be encoded, so there is nothing to send"
CONFLICT = "the images of its study disagree; decide, then put it back by its own ID"

Served = Mapping[str, Format]
"""The configured destinations by name, each with the one format that it takes."""


@dataclass(frozen=True, slots=True)
class PutBack:
    """What became of one parked delivery: queued, superseded, or still parked; `why` in words."""

    delivery_id: int
    destination: str
    format: Format
    state: DeliveryState
    why: str


def park_unserved(connection: Connection, served: Served, *, now: datetime) -> int:
    """Parks what waits for a destination that is gone or takes another format by now; how many.

    What a process is sending just now stays: it may run with the configuration before this one.
    """
    waiting = sa.or_(
        deliveries.c.state == DeliveryState.QUEUED.value,
        sa.and_(deliveries.c.state == DeliveryState.SENDING.value, deliveries.c.lease_until <= now),
    )
    count = 0
    for destination, format_ in _kinds(connection, waiting):
        reason = _unserved(destination, format_, served)
        if reason:
            done = connection.execute(
                sa.update(deliveries)
                .where(waiting, deliveries.c.destination == destination, deliveries.c.format == format_.value)
                .values(state=DeliveryState.PARKED.value, reason=reason, lease_until=None)
            )
            count += done.rowcount
    return count


def resume_served(connection: Connection, served: Served, *, now: datetime) -> int:
    """Puts back what `park_unserved` parked and a destination takes again (a name that was mistyped); how many."""
    unserved = deliveries.c.reason.in_([GONE, OTHER_KIND])
    rows = connection.execute(_parked().where(unserved)).all()
    done = [_put_back(connection, row, served, now=now) for row in rows if not row.conflict]
    return sum(one.state is DeliveryState.QUEUED for one in done)


def put_back(connection: Connection, delivery_ids: Collection[int], served: Served, *, now: datetime) -> list[PutBack]:
    """A person wants these sent: each parked one is due at once, unless there is a reason why it can't be sent.

    One that is not parked, or not known, is not in the answer and nothing happens to it.
    """
    rows = connection.execute(_parked().where(deliveries.c.id.in_(delivery_ids))).all()
    return [_put_back(connection, row, served, now=now) for row in rows]


def put_all_back(connection: Connection, served: Served, *, now: datetime) -> list[PutBack]:
    """As `put_back` for every parked delivery, but for those of studies whose images disagree."""
    found = []
    for row in connection.execute(_parked()).all():
        if row.conflict:
            found.append(_left(row, CONFLICT))
        else:
            found.append(_put_back(connection, row, served, now=now))
    return found


def _parked() -> sa.Select[Any]:
    """Parked deliveries with whether their bytes exist, the newest revision that could be sent, and the conflict."""
    d, newest = deliveries.c, encodings.alias("newest")
    bytes_exist = sa.exists().where(encodings.c.result_key == d.result_key, encodings.c.format == d.format)
    newest_revision = (
        sa.select(sa.func.max(results.c.revision))
        .join(newest, newest.c.result_key == results.c.result_key)
        .where(results.c.study_instance_uid == d.study_instance_uid)
        .scalar_subquery()
    )
    return (
        sa.select(
            deliveries, bytes_exist.label("encoded"), newest_revision.label("newest_revision"), studies.c.conflict
        )
        .outerjoin(studies, studies.c.study_instance_uid == d.study_instance_uid)
        .where(d.state == DeliveryState.PARKED.value)
        .order_by(d.id)
    )


def _put_back(connection: Connection, row: Row[Any], served: Served, *, now: datetime) -> PutBack:
    obstacle = _unserved(row.destination, Format(row.format), served) or ("" if row.encoded else NO_BYTES)
    if obstacle:
        return _left(row, obstacle)
    if (row.newest_revision or 0) > row.revision:
        state, why = DeliveryState.SUPERSEDED, superseded_by(row.newest_revision)
    else:
        state, why = DeliveryState.QUEUED, f"put back in the queue; it was parked: {row.reason}"
    connection.execute(
        sa.update(deliveries).where(deliveries.c.id == row.id).values(state=state.value, reason=why, due_at=now)
    )
    return PutBack(row.id, row.destination, Format(row.format), state, why)


def _left(row: Row[Any], why: str) -> PutBack:
    return PutBack(row.id, row.destination, Format(row.format), DeliveryState.PARKED, why)


def _kinds(connection: Connection, condition: sa.ColumnElement[bool]) -> list[tuple[str, Format]]:
    query = sa.select(deliveries.c.destination, deliveries.c.format).where(condition).distinct()
    return [(row.destination, Format(row.format)) for row in connection.execute(query)]


def _unserved(destination: str, format_: Format, served: Served) -> str:
    """Why this can't be sent there; empty when it can."""
    if destination not in served:
        return GONE
    return "" if served[destination] is format_ else OTHER_KIND
