"""Who stands on the reading list: little about each study, so that all can be ordered and only a page read in full.

A study stands there until its newest revision has ended and some time has passed; then it is found among all studies
(`hilum.adapters.sql.ledger.list_studies`). One that has not ended stays, however old it is.

The cost grows with the list and not with the number of studies: who has no end is found among the revisions that the
assembler has not marked as closed, which are those of the last seconds and those that really have none.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from hilum.adapters.sql.ledger_values import FindingBrief, urgent_labels
from hilum.adapters.sql.tables import outcomes, results, revisions, studies
from hilum.domain.results import AiState
from hilum.domain.study import OrderPriority
from hilum.domain.worklist import Entry


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


def reading_list(connection: Connection, *, ended_since: datetime) -> tuple[Standing, ...]:
    """Every study whose newest revision has not ended, or ended at `ended_since` or later; in no order."""
    listed = _listed(ended_since)
    first = revisions.alias("first_revision")

    def same(table: sa.FromClause, revision: Any) -> sa.ColumnElement[bool]:
        return sa.and_(table.c.study_instance_uid == studies.c.study_instance_uid, table.c.revision == revision)

    query = (
        sa.select(
            studies.c.study_instance_uid,
            studies.c.order_priority,
            studies.c.last_received_at,
            studies.c.receiving,
            first.c.last_received_at.label("first_complete_at"),
            outcomes.c.state,
        )
        .select_from(studies.outerjoin(first, same(first, 1)).outerjoin(outcomes, same(outcomes, studies.c.revision)))
        .where(studies.c.study_instance_uid.in_(listed))
    )
    said = _said(connection, listed)
    return tuple(_standing(row, said.get(row.study_instance_uid, {})) for row in connection.execute(query))


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


def _said(connection: Connection, listed: sa.CompoundSelect[Any]) -> dict[str, dict[str, Any]]:
    """What the newest result of each study says; empty where it is negative, which spares reading it."""
    query = (
        sa.select(
            outcomes.c.study_instance_uid,
            sa.case((results.c.state != AiState.NEGATIVE.value, results.c.findings), else_=sa.null()).label("findings"),
        )
        .join(results, results.c.result_key == outcomes.c.result_key)
        .where(outcomes.c.study_instance_uid.in_(listed))
        .order_by(outcomes.c.revision)
    )
    return {row.study_instance_uid: row.findings or {} for row in connection.execute(query)}


def _standing(row: Any, said: dict[str, Any]) -> Standing:
    found = tuple(FindingBrief(f["label"], f["probability"], f["urgent"]) for f in said.get("findings", ()))
    entry = Entry(
        row.study_instance_uid,
        OrderPriority(row.order_priority),
        row.first_complete_at or row.last_received_at,
        urgent_labels(found),
    )
    state = None if row.receiving or row.state is None else AiState(row.state)
    return Standing(entry, state, len(found) + len(said.get("ungrounded", ())))
