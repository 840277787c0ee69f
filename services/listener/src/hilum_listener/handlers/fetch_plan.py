"""Which studies lack images that somebody names, and which want earlier ones: what the fetch role then asks for."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from hilum.adapters.sql.database import reading, transaction
from hilum.adapters.sql.tables import (
    availability_notices,
    instances,
    procedure_steps,
    quarantine,
    retrievals,
    studies,
    study_senders,
)
from hilum.domain.routing import rule_of
from hilum.domain.study import holds_images
from hilum_listener.handlers.priors import FETCHED_MISSING
from hilum_listener.handlers.retrieval import SETTLED, Kind, ask
from hilum_listener.handlers.revisions import draft
from hilum_listener.settings import FetchSettings


class Plan:
    """Looks at the studies that are being received, and asks once for each that is to be asked for."""

    def __init__(self, engine: Engine, settings: FetchSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._looked: dict[str, datetime] = {}

    def step(self, now: datetime) -> int:
        """Returns how many were asked for.

        Raises:
            Busy: the database is away.
        """
        with reading(self._engine) as connection:
            receiving = connection.execute(sa.select(studies).where(studies.c.receiving)).all()
            lacking = [uid for study in receiving if (uid := self._lacks(connection, study, now))]
            wanting = [uid for study in receiving if (uid := self._wants(connection, study, now))]
        if lacking or wanting:
            with transaction(self._engine) as connection:
                for uid in lacking:
                    ask(connection, uid, Kind.MISSING, uid, now=now)
                for uid in wanting:
                    ask(connection, uid, Kind.SEARCH, uid, now=now)
        self._looked = {study.study_instance_uid: study.last_received_at for study in receiving}
        return len(lacking) + len(wanting)

    def _lacks(self, connection: Connection, study: Any, now: datetime) -> str:
        """The study's UID when its senders are gone, it still waits, and there is news since an archive was asked."""
        uid = study.study_instance_uid
        if now < study.last_received_at + self._settings.grace:
            return ""
        if _is_being_sent(connection, uid) and now < study.last_received_at + self._settings.unreleased_quiet_time:
            return ""
        known: Any = connection.execute(
            sa.select(retrievals.c.state, retrievals.c.finished_at).where(
                retrievals.c.study_instance_uid == uid, retrievals.c.kind == Kind.MISSING
            )
        ).one_or_none()
        if known is None:
            return str(uid)
        news = known.state in SETTLED and _news_at(connection, study) > known.finished_at
        return str(uid) if news else ""

    def _wants(self, connection: Connection, study: Any, now: datetime) -> str:
        """The study's UID when a rule takes it that asks for earlier studies, and they were not asked for yet."""
        uid = study.study_instance_uid
        if not self._settings.prior_rules or self._looked.get(uid) == study.last_received_at:
            return ""
        asked = sa.select(retrievals.c.state).where(
            retrievals.c.study_instance_uid == uid, retrievals.c.kind == Kind.SEARCH
        )
        if connection.execute(asked).first() is not None:
            return ""
        rule = rule_of(draft(connection, study, reason="", now=now), self._settings.prior_rules)
        return str(uid) if rule is not None and rule.priors is not None else ""


def _is_being_sent(connection: Connection, study: str) -> bool:
    """True while an association that brought something is open; those of the fetch role itself don't count."""
    table = study_senders.c
    row = connection.execute(
        sa.select(table.association)
        .where(
            table.study_instance_uid == study, table.state == "open", table.association.not_like(f"{FETCHED_MISSING}%")
        )
        .limit(1)
    )
    return row.first() is not None


def _news_at(connection: Connection, study: Any) -> datetime:
    """When the last image, procedure step or notification of the study came."""
    uid = study.study_instance_uid
    newest = [
        sa.select(sa.func.max(procedure_steps.c.changed_at)).where(procedure_steps.c.study_instance_uid == uid),
        sa.select(sa.func.max(availability_notices.c.received_at)).where(
            availability_notices.c.study_instance_uid == uid
        ),
    ]
    times: list[datetime | None] = [connection.execute(query).scalar_one() for query in newest]
    last: datetime = study.last_received_at
    return max([last, *(at for at in times if at is not None)])


def listed_images(connection: Connection, study: str) -> frozenset[str]:
    """SOP Instance UIDs of the images that procedure steps and notifications name."""
    lists: list[Any] = []
    for table in (procedure_steps, availability_notices):
        lists += connection.execute(sa.select(table.c.instances).where(table.c.study_instance_uid == study)).scalars()
    return frozenset(uid for named in lists for sop_class, uid in named if holds_images(sop_class))


def indexed(connection: Connection, study: str) -> frozenset[str]:
    """SOP Instance UIDs of everything that is here of a study."""
    query = sa.select(instances.c.sop_instance_uid).where(instances.c.study_instance_uid == study)
    return frozenset(connection.execute(query).scalars())


def quarantined(connection: Connection, uids: Sequence[str]) -> frozenset[str]:
    """Those of these SOP Instance UIDs that came and could not be indexed."""
    found: set[str] = set()
    for start in range(0, len(uids), 500):
        part = sa.select(quarantine.c.sop_instance_uid).where(
            quarantine.c.sop_instance_uid.in_(uids[start : start + 500])
        )
        found.update(connection.execute(part).scalars())
    return frozenset(found)


def files_of(connection: Connection, study: str) -> Sequence[str]:
    """One file of each series that is here, by its URI."""
    query = sa.select(sa.func.min(instances.c.uri)).where(instances.c.study_instance_uid == study)
    return list(connection.execute(query.group_by(instances.c.series_instance_uid)).scalars())
