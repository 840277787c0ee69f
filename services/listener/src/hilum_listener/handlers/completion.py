"""Declares studies complete and publishes them."""

from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection

from hilum.adapters.sql.tables import instances, revisions, series, studies
from hilum.contracts.messages import StudyReady
from hilum.contracts.topics import STUDY_READY
from hilum.domain.study import Complete, Instance, OrderPriority, Series, StudyRevision, decide_completeness
from hilum.ports.events import Outgoing, Publisher
from hilum_listener.handlers.index import is_image


def next_due(connection: Connection, quiet_time: timedelta) -> datetime | None:
    """When the next study becomes complete if nothing arrives any more."""
    query = (
        sa.select(studies.c.last_received_at).where(studies.c.receiving).order_by(studies.c.last_received_at).limit(1)
    )
    oldest: datetime | None = connection.execute(query).scalar_one_or_none()
    return None if oldest is None else oldest + quiet_time


def complete_due(
    connection: Connection, publisher: Publisher, *, quiet_time: timedelta, now: datetime
) -> list[StudyRevision]:
    """Completes every study whose time has come, in the caller's transaction: rows and messages commit together."""
    due = connection.execute(
        sa.select(studies)
        .where(studies.c.receiving, studies.c.last_received_at <= now - quiet_time)
        .order_by(studies.c.last_received_at)
    ).all()
    done = []
    for study in due:
        decision = decide_completeness(now=now, last_received_at=study.last_received_at, quiet_time=quiet_time)
        if isinstance(decision, Complete):
            done.append(_complete(connection, publisher, study, decision.reason, now))
    return done


def _complete(
    connection: Connection, publisher: Publisher, study: "sa.Row[tuple[object, ...]]", reason: str, now: datetime
) -> StudyRevision:
    revision = StudyRevision(
        study_instance_uid=study.study_instance_uid,
        revision=study.revision + 1,
        series=_series(connection, study.study_instance_uid),
        description=study.description,
        order_priority=OrderPriority(study.order_priority),
        last_received_at=study.last_received_at,
        completed_at=now,
        complete_reason=reason,
    )
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
        .values(revision=revision.revision, receiving=False)
    )
    message = StudyReady.from_domain(revision).model_dump_json()
    publisher.publish(connection, [Outgoing(STUDY_READY.name, study.study_key, message)])
    return revision


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
