"""Judges the studies that are being received, completes those that are, and publishes them."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from hilum.adapters.sql.database import reading, transaction
from hilum.adapters.sql.tables import instances, revisions, series, studies
from hilum.contracts.messages import StudyReady
from hilum.contracts.topics import STUDY_READY
from hilum.domain.study import (
    Complete,
    Instance,
    OrderPriority,
    Series,
    StudyRevision,
    Wait,
    decide_completeness,
)
from hilum.ports.counts import ExpectedCounts
from hilum.ports.events import Outgoing, Publisher
from hilum_listener.handlers.evidence import forget_senders, gather
from hilum_listener.handlers.index import is_image
from hilum_listener.settings import AssembleSettings


class Completion:
    """Knows when to look at which study next; everything else is in the index."""

    def __init__(self, settings: AssembleSettings, publisher: Publisher, counts: ExpectedCounts) -> None:
        self._settings = settings
        self._publisher = publisher
        self._counts = counts
        self._due: dict[str, datetime] = {}

    def load(self, connection: Connection, now: datetime) -> None:
        """After a start: every study that is being received is looked at once."""
        self._due = dict.fromkeys(
            connection.execute(sa.select(studies.c.study_instance_uid).where(studies.c.receiving)).scalars(), now
        )

    def touch(self, study_uids: Iterable[str], now: datetime) -> None:
        """There is something new about these studies."""
        self._due.update(dict.fromkeys(study_uids, now))

    @property
    def next_due(self) -> datetime | None:
        """When the next study is looked at; None when none is being received."""
        return min(self._due.values(), default=None)

    def complete_due(self, engine: Engine, now: datetime) -> list[StudyRevision]:
        """Completes every study that is due and complete: rows and messages of each commit together.

        Raises:
            Busy: the database is away; the same studies are due next time.
        """
        self.touch(self._counts.changed(), now)
        due = [uid for uid, at in self._due.items() if at <= now]
        if not due:
            return []
        with reading(engine) as connection:
            judged = {uid: self._judge(connection, uid, now) for uid in due}
        complete = [uid for uid, decision in judged.items() if isinstance(decision, Complete)]
        done: list[StudyRevision] = []
        if complete:
            with transaction(engine) as connection:
                for uid in complete:
                    decision = self._judge(connection, uid, now)
                    if isinstance(decision, Complete):
                        done.append(_complete(connection, self._publisher, uid, decision.reason, now))
        self._settle(judged, done)
        return done

    def _judge(self, connection: Connection, uid: str, now: datetime) -> Complete | Wait | None:
        """None for a study that is not being received: nothing about it can be due."""
        study = connection.execute(
            sa.select(studies).where(studies.c.study_instance_uid == uid, studies.c.receiving)
        ).one_or_none()
        if study is None:
            return None
        expected = self._counts.expected(uid, since=study.last_received_at)
        evidence = gather(connection, study, expected=expected)
        return decide_completeness(evidence, self._settings.patience(study.modalities), now=now)

    def _settle(self, judged: Mapping[str, Complete | Wait | None], done: Iterable[StudyRevision]) -> None:
        finished = {revision.study_instance_uid for revision in done}
        for uid, decision in judged.items():
            if isinstance(decision, Wait):
                self._due[uid] = decision.until
            elif decision is None or uid in finished:
                self._due.pop(uid, None)


def _complete(
    connection: Connection, publisher: Publisher, study_uid: str, reason: str, now: datetime
) -> StudyRevision:
    study: Any = connection.execute(sa.select(studies).where(studies.c.study_instance_uid == study_uid)).one()
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
    forget_senders(connection, study_uid)
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
