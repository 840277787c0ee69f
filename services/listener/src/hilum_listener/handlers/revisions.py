"""What a study consists of at this moment, and making a revision of it."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from hilum.adapters.sql.tables import instances, revisions, series, studies
from hilum.contracts.messages import StudyReady
from hilum.contracts.topics import STUDY_READY
from hilum.contracts.trace import begin
from hilum.domain.routing import STARTED_EARLY
from hilum.domain.study import Instance, OrderPriority, PriorStudy, Series, StudyRevision
from hilum.ports.events import Outgoing, Publisher
from hilum_listener.handlers.evidence import forget_senders
from hilum_listener.handlers.index import is_image
from hilum_listener.handlers.priors import fetched_priors


def draft(connection: Connection, study: Any, *, reason: str, now: datetime) -> StudyRevision:
    """The next revision of a row of `studies`, as it would be if it were complete."""
    return StudyRevision(
        study_instance_uid=study.study_instance_uid,
        revision=study.revision + 1,
        series=_series(connection, study.study_instance_uid),
        description=study.description,
        order_priority=OrderPriority(study.order_priority),
        last_received_at=study.last_received_at,
        completed_at=now,
        complete_reason=reason,
    )


def publish(
    connection: Connection, publisher: Publisher, study: Any, *, reason: str, now: datetime, receiving: bool
) -> StudyRevision:
    """Makes the revision: its row, the study's, and the message, in the caller's transaction.

    `receiving`: more of the study is expected; else a further image opens it again.
    """
    revision = draft(connection, study, reason=reason, now=now)
    revision = replace(revision, priors=_priors(connection, revision.study_instance_uid))
    connection.execute(
        sa.insert(revisions).values(
            study_instance_uid=revision.study_instance_uid,
            revision=revision.revision,
            instance_count=sum(len(s.instances) for s in revision.series),
            last_received_at=revision.last_received_at,
            completed_at=now,
            reason=reason,
        )
    )
    connection.execute(
        sa.update(studies)
        .where(studies.c.study_instance_uid == revision.study_instance_uid)
        .values(revision=revision.revision)
    )
    if not receiving:
        end_receiving(connection, revision.study_instance_uid)
    message = StudyReady.from_domain(revision).model_dump_json()
    trace = begin(revision.study_instance_uid, revision.revision)
    publisher.publish(connection, [Outgoing(STUDY_READY.name, study.study_key, message, trace)])
    return revision


def end_receiving(connection: Connection, study_uid: str) -> None:
    connection.execute(sa.update(studies).where(studies.c.study_instance_uid == study_uid).values(receiving=False))
    forget_senders(connection, study_uid)


def is_unchanged(connection: Connection, study: Any) -> bool:
    """True when the newest revision started early and has every image: there is nothing new to examine.

    The count decides, for a clock that was set back may give a later image the same time.
    """
    newest: Any = connection.execute(
        sa.select(revisions).where(
            revisions.c.study_instance_uid == study.study_instance_uid, revisions.c.revision == study.revision
        )
    ).one_or_none()
    if newest is None or not newest.reason.startswith(STARTED_EARLY):
        return False
    here = sum(len(s.instances) for s in _series(connection, study.study_instance_uid))
    return bool(newest.instance_count == here and newest.last_received_at == study.last_received_at)


def last_received_at(connection: Connection, study_uid: str) -> dict[str, datetime]:
    """When the last object of each series came, by its UID."""
    rows = connection.execute(
        sa.select(instances.c.series_instance_uid, sa.func.max(instances.c.received_at).label("at"))
        .where(instances.c.study_instance_uid == study_uid)
        .group_by(instances.c.series_instance_uid)
    )
    return {row.series_instance_uid: row.at for row in rows}


def _priors(connection: Connection, study_uid: str) -> tuple[PriorStudy, ...]:
    """The earlier studies that were fetched for it and are still here, newest first."""
    found = [PriorStudy(uid, day, _series(connection, uid)) for uid, day in fetched_priors(connection, study_uid)]
    return tuple(prior for prior in found if prior.series)


def _series(connection: Connection, study_uid: str) -> tuple[Series, ...]:
    """The study's images by series; of a study without any, the rest, so that it ends with a reason too."""
    rows = connection.execute(
        sa.select(instances, series.c.modality, series.c.body_part, series.c.description)
        .join(series, series.c.series_instance_uid == instances.c.series_instance_uid)
        .where(instances.c.study_instance_uid == study_uid)
        .order_by(series.c.series_instance_uid, instances.c.instance_number, instances.c.sop_instance_uid)
    ).all()
    images = [row for row in rows if is_image(row.rows, row.sop_class_uid)]
    grouped: dict[str, list[sa.Row[tuple[object, ...]]]] = {}
    for row in images or rows:
        grouped.setdefault(row.series_instance_uid, []).append(row)
    return tuple(
        Series(
            series_instance_uid=uid,
            modality=members[0].modality,
            body_part=members[0].body_part,
            description=members[0].description,
            instances=tuple(_instance(row) for row in members),
        )
        for uid, members in grouped.items()
    )


def _instance(row: "sa.Row[tuple[object, ...]]") -> Instance:
    return Instance(
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        uri=row.uri,
        sha256=row.sha256,
        rows=row.rows,
        columns=row.columns,
        frames=row.frames,
        instance_number=row.instance_number,
        view_position=row.view_position,
        photometric=row.photometric,
        presentation_intent=row.presentation_intent,
    )
