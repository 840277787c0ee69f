"""Earlier studies that Hilum asked for: told apart where they arrive, waited for, and named in a study's revision.

An instance counts as requested when `retrievals` names it for an earlier study and it comes as what was asked for: on
the association of that retrieval, or with C-MOVE from the archive that was asked, while it was. Everything else,
the same instance from a modality for one, is an ordinary arrival.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from hilum.adapters.sql.tables import instances, retrievals
from hilum.domain.routing import PriorsWanted
from hilum.domain.study import Wait
from hilum_listener.handlers.index import Arrival
from hilum_listener.handlers.journal import InstanceReceived
from hilum_listener.handlers.retrieval import SETTLED, Kind, State

FETCHED_PRIOR, FETCHED_MISSING = "fetch-prior-", "fetch-missing-"
"""How the association's id begins under which the fetch role journals what it brings. No other one begins so."""
_SKEW = timedelta(seconds=5)
"""The front door's clock and the one that stamps retrievals may differ so much."""


def mark_requested(connection: Connection, arrivals: Sequence[Arrival]) -> list[Arrival]:
    """The arrivals, those marked that came because they were asked for as an earlier study."""
    asked = _asked_for(connection, {a.header.study_instance_uid for a in arrivals if a.header is not None})
    found = []
    moved: set[str] = set()
    for arrival in arrivals:
        header, entry = arrival.header, arrival.entry
        if header is not None:
            rows = asked.get(header.study_instance_uid, ())
            if entry.association.startswith(FETCHED_PRIOR) or any(
                _was_moved(connection, row, entry, moved) for row in rows
            ):
                arrival = replace(arrival, requested=True)
        found.append(arrival)
    return found


def _asked_for(connection: Connection, studies: Iterable[str]) -> Mapping[str, Sequence[Any]]:
    table = retrievals.c
    rows = connection.execute(
        sa.select(
            table.target_uid, table.instances, table.sender_ae, table.attempts, table.started_at, table.finished_at
        ).where(table.kind == Kind.PRIOR, table.sender_ae != "", table.target_uid.in_(sorted(studies)))
    )
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row.target_uid, []).append(row)
    return found


def _was_moved(connection: Connection, row: Any, entry: InstanceReceived, moved: set[str]) -> bool:
    """C-MOVE brings each instance once. A second copy of the first attempt was sent by somebody's own will."""
    uid = entry.sop_instance_uid
    in_time = (
        row.started_at is not None
        and row.started_at - _SKEW <= entry.received_at
        and (row.finished_at is None or entry.received_at <= row.finished_at + _SKEW)
    )
    if not in_time or entry.calling_ae.strip() != row.sender_ae or uid not in row.instances:
        return False
    if row.attempts == 1 and (uid in moved or _is_here(connection, uid)):
        return False
    moved.add(uid)
    return True


def _is_here(connection: Connection, sop_instance_uid: str) -> bool:
    one = sa.select(instances.c.sop_instance_uid).where(instances.c.sop_instance_uid == sop_instance_uid)
    return connection.execute(one).first() is not None


@dataclass(frozen=True, slots=True)
class Gathered:
    """How it stands with the earlier studies of a study, in words. `settled`: nothing more will come."""

    words: str
    settled: bool


def gathered(connection: Connection, study: str) -> Gathered:
    """What has become of the search for earlier studies, and of those that were found."""
    table = retrievals.c
    rows: Sequence[Any] = connection.execute(
        sa.select(table.kind, table.state, table.reason).where(
            table.study_instance_uid == study, table.kind != Kind.MISSING
        )
    ).all()
    searches = [row for row in rows if row.kind == Kind.SEARCH]
    found = [row for row in rows if row.kind == Kind.PRIOR]
    if not any(row.state in SETTLED for row in searches):
        return Gathered("no archive has named any earlier study yet", False)
    failed = [row for row in searches if row.state == State.FAILED]
    if failed and not found:
        return Gathered(f"earlier studies can't be asked for ({failed[0].reason})", True)
    if not found:
        return Gathered("there is no earlier study", True)
    here = sum(row.state == State.DONE for row in found)
    words = f"{here} of {len(found)} earlier {'study is' if len(found) == 1 else 'studies are'} here"
    lost = [row.reason for row in found if row.state == State.FAILED]
    return Gathered(f"{words} ({lost[0]})" if lost else words, all(row.state in SETTLED for row in found))


def await_priors(
    connection: Connection, study: Any, wanted: PriorsWanted, *, until: datetime, now: datetime
) -> Wait | str:
    """Waits for earlier studies, or says in words what the study goes on with. `until`: not a moment longer."""
    state = gathered(connection, study.study_instance_uid)
    if state.settled:
        return state.words
    deadline = min(study.last_received_at + wanted.wait, until)
    if now < deadline:
        return Wait(deadline)
    return f"not waited for earlier studies any longer than {wanted.wait.total_seconds():g} s: {state.words}"


def fetched_priors(connection: Connection, study: str) -> list[tuple[str, str]]:
    """UID and date of the earlier studies that are here, newest first."""
    table = retrievals.c
    rows = connection.execute(
        sa.select(table.target_uid, table.study_date)
        .where(table.study_instance_uid == study, table.kind == Kind.PRIOR, table.state == State.DONE)
        .order_by(table.study_date.desc(), table.target_uid)
    )
    return [(row.target_uid, row.study_date) for row in rows]
