"""Who stands on the reading list: little about each study, so that all can be ordered and only a page read in full.

A study stands there until its newest revision has ended and some time has passed; then it is found among all studies
(`hilum.adapters.sql.ledger.list_studies`). One that has not ended stays, however old it is.

The cost grows with the list and not with the number of studies: who has no end is found among the revisions that the
assembler has not marked as closed, which are those of the last seconds and those that really have none.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from hilum.adapters.sql.ledger_values import FindingBrief, urgent_labels
from hilum.adapters.sql.tables import outcomes, results, revisions, studies
from hilum.domain.results import AiState
from hilum.domain.study import OrderPriority
from hilum.domain.worklist import Entry

_AT_ONCE = 500  # bound values of one statement
_ALL_EACH = timedelta(minutes=1)
_LATE = timedelta(minutes=2)
"""By how much an end may be written later than it says."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A study on the reading list.

    Attributes:
        state: how its newest revision ended, or None while it has not.
        findings: how many findings the newest result has, with and without a box.
    """

    entry: Entry
    state: AiState | None
    findings: int

    @property
    def study_uid(self) -> str:
        return self.entry.study_instance_uid


@dataclass(frozen=True, slots=True)
class _Said:
    """Of one result: its urgent labels, and how many findings it has."""

    urgent_labels: tuple[str, ...] = ()
    findings: int = 0


@dataclass(frozen=True, slots=True)
class _Kept:
    """A study as it was read. `ended_at`: of its newest revision; `result_key`: of its newest result, or empty."""

    standing: Standing
    ended_at: datetime | None
    result_key: str

    @property
    def moves(self) -> bool:
        return self.standing.state is None

    def stays(self, ended_since: datetime) -> bool:
        return self.ended_at is None or self.moves or self.ended_at >= ended_since


class ReadingList:
    """Reads the list again and again: what a result says only once, since it never changes; and in between only what
    may have changed: a study that has ended stays as it is until it is received again or gets another end.
    """

    def __init__(self) -> None:
        self._said: dict[str, _Said] = {}
        self._kept: dict[str, _Kept] = {}
        self._read_at: datetime | None = None
        self._all_read_at: datetime | None = None

    def read(
        self, connection: Connection, *, ended_since: datetime, now: datetime | None = None
    ) -> tuple[Standing, ...]:
        """Every study whose newest revision has not ended, or ended at `ended_since` or later; in no order.

        With `now`, studies are taken over from the last time; all are read again after a minute. Only an end that was
        written much later than it says, of a study that nobody saw before, may so be missing for that minute.
        """
        if now is None or not self._may_go_on(now):
            self._all_read_at = now
            rows = list(connection.execute(_query(_listed(ended_since))).all())
            self._kept = {}
        else:
            rows = self._changed(connection, ended_since)
        self._read_at = now
        said = self._what_rows_say(connection, rows)
        self._kept = {uid: kept for uid, kept in self._kept.items() if kept.stays(ended_since)}
        self._kept.update((row.study_instance_uid, _keep(row, said)) for row in rows)
        return tuple(kept.standing for kept in self._kept.values())

    def _may_go_on(self, now: datetime) -> bool:
        if self._read_at is None or self._all_read_at is None or now < self._read_at:
            return False
        return now - self._all_read_at < _ALL_EACH and sum(kept.moves for kept in self._kept.values()) <= _AT_ONCE

    def _changed(self, connection: Connection, ended_since: datetime) -> list[Row[Any]]:
        """What moves, moved the last time, or ended since then; what left the list is taken out."""
        assert self._read_at is not None
        rows = list(connection.execute(_query(_listed(max(ended_since, self._read_at - _LATE)))).all())
        found = {row.study_instance_uid for row in rows}
        moved = [uid for uid, kept in self._kept.items() if kept.moves and uid not in found]
        for uid in moved:
            del self._kept[uid]
        if moved:
            still = connection.execute(_query(sa.select(studies.c.study_instance_uid).where(_is_in(moved)))).all()
            rows += [row for row in still if row.ended_at is not None and row.ended_at >= ended_since]
        return rows

    def _what_rows_say(self, connection: Connection, rows: Sequence[Row[Any]]) -> Mapping[str, tuple[str, _Said]]:
        """By study: the key of its newest result, and what that says."""
        keys = {row.study_instance_uid: row.result_key for row in rows if row.result_key is not None}
        without = [row.study_instance_uid for row in rows if row.result_key is None and row.revision > 1]
        keys.update(_earlier_keys(connection, without))
        kept = {kept.result_key for kept in self._kept.values()}
        used = {key: self._said[key] for key in (*keys.values(), *kept) if key in self._said}
        used.update(_what_they_say(connection, [key for key in keys.values() if key not in used]))
        self._said = used
        return {uid: (key, used[key]) for uid, key in keys.items()}


def reading_list(connection: Connection, *, ended_since: datetime) -> tuple[Standing, ...]:
    """As `ReadingList.read`, once."""
    return ReadingList().read(connection, ended_since=ended_since)


def _is_in(study_uids: Sequence[str]) -> sa.ColumnElement[bool]:
    return studies.c.study_instance_uid.in_(study_uids)


def _query(study_uids: sa.Select[Any] | sa.CompoundSelect[Any]) -> sa.Select[Any]:
    first = revisions.alias("first_revision")

    def same(table: sa.FromClause, revision: Any) -> sa.ColumnElement[bool]:
        return sa.and_(table.c.study_instance_uid == studies.c.study_instance_uid, table.c.revision == revision)

    return (
        sa.select(
            studies.c.study_instance_uid,
            studies.c.revision,
            studies.c.order_priority,
            studies.c.last_received_at,
            studies.c.receiving,
            first.c.last_received_at.label("first_complete_at"),
            outcomes.c.state,
            outcomes.c.result_key,
            outcomes.c.ended_at,
        )
        .select_from(studies.outerjoin(first, same(first, 1)).outerjoin(outcomes, same(outcomes, studies.c.revision)))
        .where(studies.c.study_instance_uid.in_(study_uids))
    )


def _listed(ended_since: datetime) -> sa.CompoundSelect[Any]:
    ended = outcomes.alias("ended")
    has_end = (
        sa.select(1)
        .where(ended.c.study_instance_uid == revisions.c.study_instance_uid, ended.c.revision == revisions.c.revision)
        .exists()
    )
    return sa.union(
        sa.select(studies.c.study_instance_uid).where(studies.c.receiving),
        sa.select(revisions.c.study_instance_uid).where(revisions.c.closed == sa.false(), ~has_end),
        sa.select(outcomes.c.study_instance_uid).where(outcomes.c.ended_at >= ended_since),
    )


def _earlier_keys(connection: Connection, study_uids: Sequence[str]) -> dict[str, str]:
    """Of studies whose newest revision has no result: the key of the newest one that has."""
    found: dict[str, str] = {}
    for some in _parts(study_uids):
        query = (
            sa.select(outcomes.c.study_instance_uid, outcomes.c.result_key)
            .where(outcomes.c.study_instance_uid.in_(some), outcomes.c.result_key.is_not(None))
            .order_by(outcomes.c.revision)
        )
        found.update((row.study_instance_uid, row.result_key) for row in connection.execute(query).all())
    return found


def _what_they_say(connection: Connection, keys: Sequence[str]) -> dict[str, _Said]:
    """By the key of the result; the findings of a negative one are not read."""
    found: dict[str, _Said] = {}
    findings = sa.case((results.c.state != AiState.NEGATIVE.value, results.c.findings), else_=sa.null())
    for some in _parts(keys):
        query = sa.select(results.c.result_key, findings.label("findings")).where(results.c.result_key.in_(some))
        found.update((row.result_key, _brief(row.findings or {})) for row in connection.execute(query).all())
    return found


def _brief(said: Mapping[str, Any]) -> _Said:
    found = tuple(FindingBrief(f["label"], f["probability"], f["urgent"]) for f in said.get("findings", ()))
    return _Said(urgent_labels(found), len(found) + len(said.get("ungrounded", ())))


def _parts(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(values), _AT_ONCE):
        yield values[start : start + _AT_ONCE]


def _keep(row: Row[Any], said: Mapping[str, tuple[str, _Said]]) -> _Kept:
    key, says = said.get(row.study_instance_uid, ("", _Said()))
    entry = Entry(
        row.study_instance_uid,
        OrderPriority(row.order_priority),
        row.first_complete_at or row.last_received_at,
        says.urgent_labels,
    )
    state = None if row.receiving or row.state is None else AiState(row.state)
    return _Kept(Standing(entry, state, says.findings), row.ended_at, key)
