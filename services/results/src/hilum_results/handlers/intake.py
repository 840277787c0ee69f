"""Findings become a result, its bytes and its deliveries; an end without findings becomes an outcome.

Each message is written in one transaction together with its offset: state, bytes and delivery rows exist together or
not at all. The first result per (revision, model digest) wins, so a repeated message changes nothing.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from hilum.adapters.sql.locks import exclusive
from hilum.adapters.sql.tables import deliveries, encodings, outcomes, results, studies
from hilum.adapters.sql.upsert import insert, insert_new
from hilum.contracts.messages import FindingsProduced
from hilum.domain.errors import Reject
from hilum.domain.findings import Findings
from hilum.domain.identity import Patient, derive_uid
from hilum.domain.results import AiState, DeliveryState, Ended, Format, Result, describe, result_key, state_of
from hilum.domain.study import StudyHeader
from hilum_results.encode.fhir import bundle_identifier
from hilum_results.encode.oru import control_id
from hilum_results.handlers.deliveries import WITHHELD, supersede_older, superseded_by
from hilum_results.settings import Settings, format_of

Encoders = Mapping[Format, Callable[[Result], bytes]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A result with its bytes, made outside any write transaction.

    Attributes:
        failures: why a format could not be encoded, by format; such a format has no bytes.
    """

    result: Result
    encoded: Mapping[Format, bytes]
    failures: Mapping[Format, str]


def prepare(
    connection: Connection,
    findings: Findings,
    *,
    settings: Settings,
    encoders: Encoders,
    now: datetime,
    on_failure: Callable[[Format, Exception], None],
) -> Prepared | None:
    """Reads what the result needs and encodes it; None when this result is stored already.

    A format whose encoder fails is a visible failure and not a crash: the same message would only fail again.

    Raises:
        Reject: the index does not know the study, so nobody can say whose result this is.
    """
    key = result_key(findings.study_instance_uid, findings.revision, findings.model.digest)
    if connection.execute(sa.select(results.c.result_key).where(results.c.result_key == key)).first():
        return None
    predecessor = _predecessor(connection, findings)
    result = Result(
        header=_header(connection, findings.study_instance_uid),
        findings=findings,
        state=state_of(findings),
        created_at=now,
        time_zone=settings.time_zone,
        institution=settings.institution,
        predecessor_sr_uid=derive_uid("sr", predecessor) if predecessor else "",
        predecessor_series_uid=derive_uid("sr-series", predecessor) if predecessor else "",
    )
    encoded: dict[Format, bytes] = {}
    failures: dict[Format, str] = {}
    for format_, encode in encoders.items():
        try:
            encoded[format_] = encode(result)
        except Exception as error:  # whatever it is, it must end in a state that people see
            failures[format_] = f"the result could not be encoded as {format_.upper()} ({type(error).__name__})"
            on_failure(format_, error)
    return Prepared(result, encoded, failures)


def store(connection: Connection, prepared: Prepared, *, settings: Settings, now: datetime) -> AiState:
    """Writes the result, its outcome, its bytes and its deliveries; the state in which the revision ended.

    Raises:
        Conflict: another process has stored the same result since it was prepared; the message comes again.
    """
    result = prepared.result
    findings = result.findings
    exclusive(connection, f"results {findings.study_instance_uid}")
    state, reason = result.state, describe(findings)
    if prepared.failures:
        reason = "; ".join([reason, *prepared.failures.values()])
        state = state if prepared.encoded else AiState.FAILED
    newest = _newest_revision(connection, findings.study_instance_uid)
    _insert_result(connection, result, state)
    _end(connection, findings.study_instance_uid, findings.revision, state, reason, result_key=result.key, now=now)
    for format_, content in prepared.encoded.items():
        connection.execute(
            sa.insert(encodings).values(
                result_key=result.key,
                format=format_.value,
                identity=identity_of(result, format_),
                sha256=hashlib.sha256(content).hexdigest(),
                content=content,
            )
        )
    outdated_by = newest if newest > findings.revision else 0
    _plan_deliveries(connection, prepared, settings, outdated_by=outdated_by, now=now)
    if prepared.encoded and not outdated_by:
        supersede_older(connection, findings.study_instance_uid, findings.revision)
    return state


def end(connection: Connection, ended: Ended) -> bool:
    """Writes the end of a revision without findings; False when it has an end already."""
    return _end(
        connection,
        ended.study_instance_uid,
        ended.revision,
        ended.state,
        ended.reason,
        result_key=None,
        now=ended.ended_at,
    )


def identity_of(result: Result, format_: Format) -> str:
    """What the receiver knows the object by; the same for every resend."""
    match format_:
        case Format.SR:
            return result.sr_instance_uid
        case Format.FHIR:
            return bundle_identifier(result)
        case Format.ORU:
            return control_id(result)


def _end(
    connection: Connection,
    study_instance_uid: str,
    revision: int,
    state: AiState,
    reason: str,
    *,
    result_key: str | None,
    now: datetime,
) -> bool:
    """The first end of a revision stays; only a result takes the place of `failed`, so that no finding is hidden."""
    values: dict[str, Any] = {"state": state.value, "reason": reason, "result_key": result_key, "ended_at": now}
    statement = insert(connection, outcomes).values(study_instance_uid=study_instance_uid, revision=revision, **values)
    keys = ["study_instance_uid", "revision"]
    if result_key is None:
        done = connection.execute(statement.on_conflict_do_nothing(index_elements=keys))
    else:
        done = connection.execute(
            statement.on_conflict_do_update(
                index_elements=keys,
                set_=values,
                where=sa.and_(outcomes.c.state == AiState.FAILED.value, outcomes.c.result_key.is_(None)),
            )
        )
    return done.rowcount == 1


def _plan_deliveries(
    connection: Connection, prepared: Prepared, settings: Settings, *, outdated_by: int, now: datetime
) -> None:
    result = prepared.result
    conflict = _conflict(connection, result.findings.study_instance_uid)
    for destination in settings.destinations:
        format_ = format_of(destination)
        state, reason = DeliveryState.QUEUED, ""
        if result.findings.model.simulation and not destination.simulation:
            state, reason = DeliveryState.WITHHELD, WITHHELD
        elif format_ in prepared.failures:
            state, reason = DeliveryState.PARKED, prepared.failures[format_]
        elif outdated_by:
            state, reason = DeliveryState.SUPERSEDED, superseded_by(outdated_by)
        elif conflict:  # under which patient would it arrive? A person must say
            state, reason = DeliveryState.PARKED, f"not sent, a person must decide: {conflict}"
        connection.execute(
            insert(connection, deliveries)
            .values(
                result_key=result.key,
                study_instance_uid=result.findings.study_instance_uid,
                revision=result.findings.revision,
                destination=destination.name,
                format=format_.value,
                state=state.value,
                attempts=0,
                token=0,
                due_at=now,
                reason=reason,
                created_at=now,
            )
            .on_conflict_do_nothing()
        )


def _insert_result(connection: Connection, result: Result, state: AiState) -> None:
    findings = result.findings
    row = {
        "result_key": result.key,
        "study_instance_uid": findings.study_instance_uid,
        "revision": findings.revision,
        "state": state.value,
        "model_name": findings.model.name[:64],
        "model_version": findings.model.version[:32],
        "model_digest": findings.model.digest,
        "simulation": findings.model.simulation,
        "findings": FindingsProduced.from_domain(findings).model_dump(mode="json"),
        "created_at": result.created_at,
    }
    insert_new(connection, results, row)


def _header(connection: Connection, study_instance_uid: str) -> StudyHeader:
    stored = connection.execute(
        sa.select(studies.c.header).where(studies.c.study_instance_uid == study_instance_uid)
    ).scalar()
    if stored is None:
        raise Reject("the index does not know the study, so the result has no patient")
    known = {f.name for f in fields(StudyHeader)} - {"patient", "study_instance_uid"}
    patient = {f.name: str(stored.get("patient", {}).get(f.name, "")) for f in fields(Patient)}
    values = {name: str(stored.get(name, "")) for name in known}
    return StudyHeader(study_instance_uid=study_instance_uid, patient=Patient(**patient), **values)


def _conflict(connection: Connection, study_instance_uid: str) -> str:
    """Why the identities in the study's images disagree, or empty."""
    query = sa.select(studies.c.conflict).where(studies.c.study_instance_uid == study_instance_uid)
    return connection.execute(query).scalar() or ""


def _predecessor(connection: Connection, findings: Findings) -> str:
    """The key of the newest result of an earlier revision that has an SR, or empty."""
    query = (
        sa.select(results.c.result_key)
        .join(encodings, encodings.c.result_key == results.c.result_key)
        .where(
            results.c.study_instance_uid == findings.study_instance_uid,
            results.c.revision < findings.revision,
            encodings.c.format == Format.SR.value,
        )
        .order_by(results.c.revision.desc(), results.c.created_at.desc())
        .limit(1)
    )
    return connection.execute(query).scalar() or ""


def _newest_revision(connection: Connection, study_instance_uid: str) -> int:
    """The highest revision of the study that has a result; 0 before the first."""
    query = sa.select(sa.func.max(results.c.revision)).where(results.c.study_instance_uid == study_instance_uid)
    return connection.execute(query).scalar() or 0
