"""Folds what is known beside the images into the index, and gathers it again when a study is judged."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from hilum.adapters.sql.tables import (
    availability_notices,
    commitment_requests,
    committed_elsewhere,
    instances,
    procedure_steps,
    studies,
    study_senders,
)
from hilum.adapters.sql.upsert import insert
from hilum.domain.errors import Busy
from hilum.domain.study import Evidence, Listed, Sending, Step, StepStatus, compare, holds_images
from hilum.ports.counts import Expected
from hilum_listener.handlers.index import is_image
from hilum_listener.handlers.journal import AssociationChanged, NoticeReceived
from hilum_listener.handlers.notices import Content, Kind, NoticeStore

_SENDING = {"open": Sending.OPEN, "aborted": Sending.BROKEN, "released": Sending.RELEASED}


@dataclass(frozen=True, slots=True)
class Noticed:
    """A journaled notice with what its file says; None when that is gone or can't be read."""

    entry: NoticeReceived
    content: Content | None


def look_up(entry: NoticeReceived, store: NoticeStore) -> Noticed:
    """Reads a notice, outside any transaction.

    Raises:
        Busy: the spool can't be read.
    """
    try:
        return Noticed(entry, store.read(entry.kind, entry.name))
    except OSError as error:
        raise Busy(f"the spool can't be read: {type(error).__name__}") from error
    except ValueError:
        return Noticed(entry, None)


def fold_notice(connection: Connection, noticed: Noticed) -> list[str]:
    """Brings a notice into the index, in the caller's transaction; the same one again changes nothing.

    Returns the studies that it speaks of.
    """
    content = noticed.content
    if content is None:
        return []
    match noticed.entry.kind:
        case Kind.STEP:
            return _fold_step(connection, content, noticed.entry.received_at)
        case Kind.AVAILABILITY:
            return _fold_availability(connection, noticed.entry.name, content)
        case Kind.COMMITMENT:
            _fold_request(connection, noticed.entry, content)
        case Kind.REPORT:
            _fold_report(connection, content, noticed.entry.received_at)
    return []


def _fold_step(connection: Connection, content: Content, at: datetime) -> list[str]:
    for study in content["studies"]:
        statement = insert(connection, procedure_steps).values(
            step_uid=content["step_uid"],
            study_instance_uid=study,
            status=content["status"],
            reason=content["reason"],
            instances=content["instances"],
            calling_ae=content["calling_ae"],
            started_at=datetime.fromisoformat(content["started_at"]),
            changed_at=at,
        )
        changed = {name: statement.excluded[name] for name in ("status", "reason", "instances", "changed_at")}
        connection.execute(
            statement.on_conflict_do_update(index_elements=["step_uid", "study_instance_uid"], set_=changed)
        )
    return list(content["studies"])


def _fold_availability(connection: Connection, name: str, content: Content) -> list[str]:
    statement = insert(connection, availability_notices).values(
        notice=name,
        study_instance_uid=content["study"],
        instances=content["instances"],
        calling_ae=content["calling_ae"],
        received_at=datetime.fromisoformat(content["at"]),
    )
    connection.execute(statement.on_conflict_do_nothing(index_elements=["notice", "study_instance_uid"]))
    return [content["study"]]


def _fold_request(connection: Connection, entry: NoticeReceived, content: Content) -> None:
    """The association is that of the newest request: a requester that asks again waits on that one."""
    statement = insert(connection, commitment_requests).values(
        notice=entry.name,
        transaction_uid=content["transaction_uid"],
        calling_ae=content["calling_ae"],
        association=entry.association,
        instances=content["instances"],
        state="asked",
        report={},
        attempts=0,
        token=0,
        due_at=entry.received_at,
        reason="",
        requested_at=entry.received_at,
    )
    connection.execute(
        statement.on_conflict_do_update(index_elements=["notice"], set_={"association": statement.excluded.association})
    )


def _fold_report(connection: Connection, content: Content, at: datetime) -> None:
    said = [(*named, None) for named in content["committed"]] + [tuple(item) for item in content["failed"]]
    for sop_class, sop_instance, failure in said:
        statement = insert(connection, committed_elsewhere).values(
            sop_instance_uid=sop_instance,
            calling_ae=content["calling_ae"],
            sop_class_uid=sop_class,
            transaction_uid=content["transaction_uid"],
            failure_reason=failure,
            reported_at=at,
        )
        changed = {
            name: statement.excluded[name]
            for name in ("sop_class_uid", "transaction_uid", "failure_reason", "reported_at")
        }
        connection.execute(
            statement.on_conflict_do_update(index_elements=["sop_instance_uid", "calling_ae"], set_=changed)
        )


def note_senders(connection: Connection, pairs: Iterable[tuple[str, str]], ended: Mapping[str, str]) -> None:
    """Notes which association brought something of which study, if that is being received.

    `ended`: the associations whose end was folded before, and how.
    """
    for study, association in dict.fromkeys(pairs):
        before = sa.select(sa.func.coalesce(sa.func.max(study_senders.c.number), 0)).where(
            study_senders.c.study_instance_uid == study
        )
        row = sa.select(
            studies.c.study_instance_uid,
            sa.literal(association[:64]),
            sa.literal(ended.get(association, "open")),
            before.scalar_subquery() + 1,
        ).where(studies.c.study_instance_uid == study, studies.c.receiving)
        columns = ["study_instance_uid", "association", "state", "number"]
        statement = insert(connection, study_senders).from_select(columns, row)
        connection.execute(statement.on_conflict_do_nothing(index_elements=["study_instance_uid", "association"]))


def note_end(connection: Connection, entry: AssociationChanged) -> list[str]:
    """Notes how an association ended; returns the studies that it brought images of and that still wait."""
    if entry.change not in _SENDING:
        return []
    of_this = study_senders.c.association == entry.association[:64]
    found = list(connection.execute(sa.select(study_senders.c.study_instance_uid).where(of_this)).scalars())
    if found:
        connection.execute(sa.update(study_senders).where(of_this).values(state=entry.change))
    return found


def forget_senders(connection: Connection, study: str) -> None:
    connection.execute(sa.delete(study_senders).where(study_senders.c.study_instance_uid == study))


def gather(connection: Connection, study: Any, *, expected: Expected) -> Evidence:
    """The evidence on one row of `studies`. `expected`: an archive's count since its last image came, if there is one.

    Lists are compared with the images that are here only where there are lists.
    """
    uid = study.study_instance_uid
    steps = connection.execute(
        sa.select(procedure_steps).where(procedure_steps.c.study_instance_uid == uid).order_by("step_uid")
    ).all()
    notices = connection.execute(
        sa.select(availability_notices.c.instances).where(availability_notices.c.study_instance_uid == uid)
    ).scalars()
    performed, available = _named(step.instances for step in steps), _named(notices)
    here: set[str] = set()
    if performed or available or expected.images is not None:
        here, others = _here(connection, uid)
        performed, available = performed - others, available - others
    return Evidence(
        receiving_since=study.receiving_since or study.last_received_at,
        last_received_at=study.last_received_at,
        images=len(here),
        steps=tuple(Step(StepStatus(step.status), step.reason) for step in steps),
        performed=compare(performed, here) if performed else Listed(),
        available=compare(available, here) if available else Listed(),
        expected=expected.images,
        count_awaited=expected.awaited,
        sending=_sending(connection, uid),
    )


def _named(lists: Iterable[Iterable[tuple[str, str]]]) -> set[str]:
    return {uid for named in lists for sop_class, uid in named if holds_images(sop_class)}


def _here(connection: Connection, study: str) -> tuple[set[str], set[str]]:
    """SOP Instance UIDs of the study's images, and of its other objects."""
    columns = (instances.c.sop_instance_uid, instances.c.rows, instances.c.sop_class_uid)
    found = connection.execute(sa.select(*columns).where(instances.c.study_instance_uid == study)).all()
    images = {row.sop_instance_uid for row in found if is_image(row.rows, row.sop_class_uid)}
    return images, {row.sop_instance_uid for row in found} - images


def _sending(connection: Connection, study: str) -> Sending:
    """An open association weighs more than a broken one; one that broke counts until a later one ended well."""
    states = connection.execute(
        sa.select(study_senders.c.state)
        .where(study_senders.c.study_instance_uid == study)
        .order_by(sa.func.coalesce(study_senders.c.number, 0), study_senders.c.association)
    ).scalars()
    found = [_SENDING[state] for state in states]
    if Sending.OPEN in found:
        return Sending.OPEN
    return found[-1] if found else Sending.RELEASED
