"""One study in full: its revisions with route, job, result and deliveries, and its images."""

from collections import defaultdict
from dataclasses import fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from hilum.adapters.sql.ledger_values import (
    AnswerRow,
    AttemptRow,
    DeliveryRow,
    DroppedRow,
    FindingRow,
    ImageRow,
    JobRow,
    ModelRow,
    ResultRow,
    RetrievalRow,
    RevisionRow,
    RouteRow,
    ShownImage,
    standing,
)
from hilum.adapters.sql.tables import (
    deliveries,
    delivery_attempts,
    encodings,
    instances,
    jobs,
    outcomes,
    results,
    retrievals,
    revisions,
    routes,
    series,
)
from hilum.contracts.messages import FindingsProduced
from hilum.domain.results import AiState, DeliveryState, Format


def revisions_of(connection: Connection, uid: str) -> tuple[RevisionRow, ...]:
    def by_revision(table: sa.Table) -> dict[int, Row[Any]]:
        query = sa.select(table).where(table.c.study_instance_uid == uid)
        return {row.revision: row for row in connection.execute(query)}

    known = by_revision(revisions)
    routed, worked, ended = by_revision(routes), by_revision(jobs), by_revision(outcomes)
    said = _results(connection, uid)
    sent = _deliveries(connection, uid)
    found: list[RevisionRow] = []
    for number in sorted(known, reverse=True):
        row, end = known[number], ended.get(number)
        route = _route(routed.get(number))
        job = _job(worked.get(number))
        outcome = (AiState(end.state), end.reason) if end else None
        state, reason = standing(route=route, job=job, outcome=outcome, complete_reason=row.reason)
        found.append(
            RevisionRow(
                revision=number,
                state=state,
                reason=reason,
                instance_count=row.instance_count,
                last_received_at=row.last_received_at,
                completed_at=row.completed_at,
                complete_reason=row.reason,
                ended_at=end.ended_at if end else None,
                route=route,
                job=job,
                result=said.get(end.result_key) if end and end.result_key else None,
                deliveries=tuple(sent.get(number, ())),
            )
        )
    return tuple(found)


def _route(row: Row[Any] | None) -> RouteRow | None:
    return None if row is None else RouteRow(row.lane or "", row.rule, row.reason, row.decided_at)


def _job(row: Row[Any] | None) -> JobRow | None:
    return None if row is None else JobRow(*(getattr(row, f.name) for f in fields(JobRow)))


def _results(connection: Connection, uid: str) -> dict[str, ResultRow]:
    formats: dict[str, list[str]] = defaultdict(list)
    query = (
        sa.select(encodings.c.result_key, encodings.c.format)
        .join(results, results.c.result_key == encodings.c.result_key)
        .where(results.c.study_instance_uid == uid)
        .order_by(encodings.c.format)
    )
    for row in connection.execute(query):
        formats[row.result_key].append(row.format)
    rows = connection.execute(sa.select(results).where(results.c.study_instance_uid == uid))
    return {row.result_key: _result(row, tuple(formats[row.result_key])) for row in rows}


def _result(row: Row[Any], formats: tuple[str, ...]) -> ResultRow:
    said = FindingsProduced.model_validate(row.findings).to_domain()
    return ResultRow(
        result_key=row.result_key,
        state=AiState(row.state),
        model=ModelRow(**{f.name: getattr(said.model, f.name) for f in fields(ModelRow)}),
        findings=tuple(
            FindingRow(
                f.label,
                f.probability,
                f.urgent,
                f.box,
                f.image.sop_instance_uid,
                f.image.frame,
                f.image.rows,
                f.image.columns,
                f.tracking_uid,
            )
            for f in said.findings
        ),
        dropped=tuple(DroppedRow(d.text, d.reason) for d in said.dropped),
        report=said.report,
        answers=tuple(AnswerRow(a.question, a.text) for a in said.answers),
        ungrounded=said.ungrounded,
        images=tuple(ShownImage(**{f.name: getattr(i, f.name) for f in fields(ShownImage)}) for i in said.images),
        prompt_digest=said.prompt_digest,
        produced_at=said.produced_at,
        created_at=row.created_at,
        timings_s=dict(said.timings_s),
        formats=formats,
    )


def _deliveries(connection: Connection, uid: str) -> dict[int, list[DeliveryRow]]:
    tries: dict[int, list[AttemptRow]] = defaultdict(list)
    query = (
        sa.select(delivery_attempts)
        .join(deliveries, deliveries.c.id == delivery_attempts.c.delivery_id)
        .where(deliveries.c.study_instance_uid == uid)
        .order_by(delivery_attempts.c.attempt)
    )
    for row in connection.execute(query):
        tries[row.delivery_id].append(AttemptRow(row.attempt, row.started_at, row.seconds, row.outcome, row.words))
    found: dict[int, list[DeliveryRow]] = defaultdict(list)
    rows = connection.execute(
        sa.select(deliveries)
        .where(deliveries.c.study_instance_uid == uid)
        .order_by(deliveries.c.destination, deliveries.c.format)
    )
    for row in rows:
        found[row.revision].append(
            DeliveryRow(
                revision=row.revision,
                destination=row.destination,
                format=Format(row.format),
                state=DeliveryState(row.state),
                reason=row.reason,
                created_at=row.created_at,
                accepted_at=row.accepted_at,
                due_at=row.due_at,
                attempts=tuple(tries[row.id]),
            )
        )
    return found


def images_of(connection: Connection, uid: str) -> tuple[ImageRow, ...]:
    query = (
        sa.select(instances, series.c.modality, series.c.body_part, series.c.description.label("series_description"))
        .outerjoin(series, series.c.series_instance_uid == instances.c.series_instance_uid)
        .where(instances.c.study_instance_uid == uid)
        .order_by(instances.c.series_instance_uid, instances.c.instance_number, instances.c.sop_instance_uid)
    )
    names = [f.name for f in fields(ImageRow)]
    optional = {"modality", "body_part", "series_description"}
    found = []
    for row in connection.execute(query):
        values: dict[str, Any] = {n: getattr(row, n) for n in names}
        values.update({n: "" for n in optional if values[n] is None})
        found.append(ImageRow(**values))
    return tuple(found)


def retrievals_of(connection: Connection, uid: str) -> tuple[RetrievalRow, ...]:
    """What archives were asked for because of this study; missing images first, then earlier studies, newest first."""
    query = (
        sa.select(retrievals)
        .where(retrievals.c.study_instance_uid == uid)
        .order_by(retrievals.c.kind == "prior", retrievals.c.study_date.desc(), retrievals.c.target_uid)
    )
    return tuple(
        RetrievalRow(
            kind=row.kind,
            state=row.state,
            reason=row.reason,
            archive=row.archive,
            attempts=row.attempts,
            asked=len(row.instances),
            came=row.came,
            due_at=row.due_at,
            target_uid=row.target_uid,
            study_date=row.study_date,
            images=images_of(connection, row.target_uid) if row.kind == "prior" and row.state == "done" else (),
        )
        for row in connection.execute(query).all()
    )
