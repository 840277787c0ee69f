"""The read side of the ledger: what the console and `hilum studies`, `show` and `export` tell about studies.

Every function reads inside the caller's `hilum.adapters.sql.database.reading` and writes nothing. Rows of studies cost
three queries whatever their number; which studies stand on the reading list is the matter of `reading_list`.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from hilum.adapters.sql.ledger_detail import images_of, retrievals_of, revisions_of
from hilum.adapters.sql.ledger_values import (
    DeadLetterRow,
    DeliveryBrief,
    FindingBrief,
    JobRow,
    ModelRow,
    QuarantineRow,
    RouteRow,
    State,
    StudyDetail,
    StudyRow,
    standing,
    urgent_labels,
)
from hilum.adapters.sql.tables import (
    dead_letters,
    deliveries,
    encodings,
    jobs,
    outcomes,
    quarantine,
    results,
    revisions,
    routes,
    studies,
)
from hilum.domain.identity import Patient
from hilum.domain.results import AiState, DeliveryState, Format, StudyState
from hilum.domain.study import OrderPriority
from hilum.domain.worklist import Entry

_AT_ONCE = 500  # bound values of one statement
_PATIENT_FIELDS = tuple(f.name for f in fields(Patient))


def list_studies(connection: Connection, *, limit: int | None = None, offset: int = 0) -> list[StudyRow]:
    """Every study, newest images first; with `limit`, so many of them after the first `offset`."""
    if limit is None and not offset:
        return _rows(connection, sa.true())
    query = (
        sa.select(studies.c.study_instance_uid)
        .order_by(studies.c.last_received_at.desc(), studies.c.study_instance_uid)
        .limit(limit)
        .offset(offset)
    )
    return study_rows(connection, connection.execute(query).scalars().all())


def study_rows(connection: Connection, study_uids: Sequence[str]) -> list[StudyRow]:
    """The rows of these studies, in the order of the UIDs; those that are not known are left out."""
    found: dict[str, StudyRow] = {}
    for start in range(0, len(study_uids), _AT_ONCE):
        some = study_uids[start : start + _AT_ONCE]
        found.update((row.study_uid, row) for row in _rows(connection, studies.c.study_instance_uid.in_(some)))
    return [found[uid] for uid in study_uids if uid in found]


def uids_with(connection: Connection, text: str, *, limit: int) -> list[str]:
    """UIDs of studies that contain `text`, newest images first."""
    query = (
        sa.select(studies.c.study_instance_uid)
        .where(studies.c.study_instance_uid.contains(text, autoescape=True))
        .order_by(studies.c.last_received_at.desc())
        .limit(limit)
    )
    return list(connection.execute(query).scalars())


def count_studies(connection: Connection) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(studies)).scalar_one()


def count_parked(connection: Connection) -> int:
    """How many studies have a delivery that waits for a person."""
    # spelled out, since a bound value would not match the condition of the index
    of_index: sa.ColumnElement[str] = sa.literal_column(f"'{DeliveryState.PARKED.value}'")
    parked = sa.select(deliveries.c.study_instance_uid).where(deliveries.c.state == of_index)
    return connection.execute(sa.select(sa.func.count()).select_from(parked.distinct().subquery())).scalar_one()


def show_study(connection: Connection, study_uid: str) -> StudyDetail | None:
    """Everything about one study, or None when no image of it was ever indexed."""
    rows = study_rows(connection, [study_uid])
    if not rows:
        return None
    extra = connection.execute(
        sa.select(studies.c.header, studies.c.calling_ae).where(studies.c.study_instance_uid == study_uid)
    ).one()
    return StudyDetail(
        row=rows[0],
        study_time=str(extra.header.get("study_time", "")),
        calling_ae=extra.calling_ae,
        revisions=revisions_of(connection, study_uid),
        images=images_of(connection, study_uid),
        retrievals=retrievals_of(connection, study_uid),
    )


def encoding(connection: Connection, study_uid: str, format: Format, revision: int | None = None) -> bytes | None:
    """The bytes that are sent for a revision, by default the newest that has a result; None when there are none."""
    query = (
        sa.select(encodings.c.content)
        .join(outcomes, outcomes.c.result_key == encodings.c.result_key)
        .where(outcomes.c.study_instance_uid == study_uid, encodings.c.format == format.value)
        .order_by(outcomes.c.revision.desc())
        .limit(1)
    )
    if revision is not None:
        query = query.where(outcomes.c.revision == revision)
    content: bytes | None = connection.execute(query).scalar()
    return content


def list_quarantine(connection: Connection) -> list[QuarantineRow]:
    """Received bytes that could not be indexed, newest first."""
    names = [f.name for f in fields(QuarantineRow)]
    query = sa.select(*(quarantine.c[name] for name in names)).order_by(quarantine.c.id.desc())
    return [QuarantineRow(*row) for row in connection.execute(query).all()]


def list_dead_letters(connection: Connection) -> list[DeadLetterRow]:
    """Messages that no retry can help, newest first, without those that a person has published again."""
    names = [f.name for f in fields(DeadLetterRow)]
    query = sa.select(*(dead_letters.c[name] for name in names)).order_by(dead_letters.c.id.desc())
    query = query.where(dead_letters.c.replayed_at.is_(None))
    return [DeadLetterRow(*row) for row in connection.execute(query).all()]


def count_dead_letters(connection: Connection) -> int:
    query = sa.select(sa.func.count()).select_from(dead_letters).where(dead_letters.c.replayed_at.is_(None))
    return connection.execute(query).scalar_one()


def count_quarantine(connection: Connection) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(quarantine)).scalar_one()


def worklist_entry(row: StudyRow) -> Entry:
    """The study as the reading order sees it."""
    return Entry(row.study_uid, row.order_priority, row.waiting_since, row.urgent_labels)


# --- rows of the list -------------------------------------------------------------------------------------------------


def _rows(connection: Connection, condition: sa.ColumnElement[bool]) -> list[StudyRow]:
    first = revisions.alias("first_revision")

    def same(table: sa.FromClause, revision: Any) -> sa.ColumnElement[bool]:
        return sa.and_(table.c.study_instance_uid == studies.c.study_instance_uid, table.c.revision == revision)

    joined = (
        studies.outerjoin(revisions, same(revisions, studies.c.revision))
        .outerjoin(first, same(first, 1))
        .outerjoin(routes, same(routes, studies.c.revision))
        .outerjoin(jobs, same(jobs, studies.c.revision))
        .outerjoin(outcomes, same(outcomes, studies.c.revision))
    )
    query = (
        sa.select(
            studies,
            first.c.last_received_at.label("first_complete_at"),
            revisions.c.reason.label("complete_reason"),
            *_labelled(routes, "lane", "rule", "reason", "decided_at"),
            *_labelled(jobs, *(f.name for f in fields(JobRow))),
            *_labelled(outcomes, "state", "reason"),
        )
        .select_from(joined)
        .where(condition)
        .order_by(studies.c.last_received_at.desc(), studies.c.study_instance_uid)
    )
    newest = _newest_results(connection, condition)
    sent = _briefs(connection, condition)
    return [_row(row, newest.get(row.study_instance_uid), sent) for row in connection.execute(query).all()]


def _labelled(table: sa.Table, *names: str) -> list[sa.Label[Any]]:
    return [table.c[name].label(f"{table.name}_{name}") for name in names]


def _row(row: Row[Any], result: Row[Any] | None, sent: dict[str, list[DeliveryBrief]]) -> StudyRow:
    header = row.header
    patient = header.get("patient") or {}
    said = result.findings if result else {}
    found = tuple(FindingBrief(f["label"], f["probability"], f["urgent"]) for f in said.get("findings", ()))
    state, reason = _state(row)
    return StudyRow(
        study_uid=row.study_instance_uid,
        key=row.study_key,
        patient=Patient(**{name: str(patient.get(name, "")) for name in _PATIENT_FIELDS}),
        accession=str(header.get("accession_number", "")),
        modality=row.modalities,
        description=row.description,
        study_date=str(header.get("study_date", "")),
        first_received_at=row.first_received_at,
        last_received_at=row.last_received_at,
        waiting_since=row.first_complete_at or row.last_received_at,
        order_priority=OrderPriority(row.order_priority),
        revision=row.revision,
        state=state,
        reason=reason,
        findings=found,
        urgent_labels=urgent_labels(found),
        ungrounded=tuple(said.get("ungrounded", ())),
        result_revision=result.revision if result else None,
        model=_model(said["model"]) if result else None,
        deliveries=tuple(sent[result.result_key]) if result and result.result_key in sent else (),
        conflict=row.conflict,
    )


def _state(row: Row[Any]) -> tuple[State, str]:
    if row.receiving or row.revision == 0:
        return StudyState.RECEIVING, "late images reopened the study" if row.revision else "images still arrive"
    route = None
    if row.routes_decided_at is not None:
        route = RouteRow(row.routes_lane or "", row.routes_rule, row.routes_reason, row.routes_decided_at)
    job = None
    if row.jobs_state is not None:
        job = JobRow(*(getattr(row, f"jobs_{f.name}") for f in fields(JobRow)))
    outcome = None if row.outcomes_state is None else (AiState(row.outcomes_state), row.outcomes_reason)
    return standing(route=route, job=job, outcome=outcome, complete_reason=row.complete_reason or "")


def _newest_keys(condition: sa.ColumnElement[bool]) -> sa.Subquery:
    """Of each study the newest revision that has a result, and the key of that result."""
    top = (
        sa.select(outcomes.c.study_instance_uid, sa.func.max(outcomes.c.revision).label("revision"))
        .join(studies, studies.c.study_instance_uid == outcomes.c.study_instance_uid)
        .where(outcomes.c.result_key.is_not(None), condition)
        .group_by(outcomes.c.study_instance_uid)
        .subquery()
    )
    return (
        sa.select(outcomes.c.study_instance_uid, outcomes.c.revision, outcomes.c.result_key)
        .join(
            top,
            (top.c.study_instance_uid == outcomes.c.study_instance_uid) & (top.c.revision == outcomes.c.revision),
        )
        .subquery()
    )


def _newest_results(connection: Connection, condition: sa.ColumnElement[bool]) -> dict[str, Row[Any]]:
    keys = _newest_keys(condition)
    query = sa.select(keys, results.c.findings).join(results, results.c.result_key == keys.c.result_key)
    return {row.study_instance_uid: row for row in connection.execute(query).all()}


def _briefs(connection: Connection, condition: sa.ColumnElement[bool]) -> dict[str, list[DeliveryBrief]]:
    """Deliveries of the newest results, by result key."""
    keys = _newest_keys(condition)
    query = (
        sa.select(deliveries)
        .join(keys, keys.c.result_key == deliveries.c.result_key)
        .order_by(deliveries.c.destination, deliveries.c.format)
    )
    found: dict[str, list[DeliveryBrief]] = defaultdict(list)
    for row in connection.execute(query).all():
        found[row.result_key].append(
            DeliveryBrief(row.destination, Format(row.format), DeliveryState(row.state), row.attempts, row.reason)
        )
    return dict(found)


def _model(said: dict[str, Any]) -> ModelRow:
    return ModelRow(**{f.name: said[f.name] for f in fields(ModelRow)})
