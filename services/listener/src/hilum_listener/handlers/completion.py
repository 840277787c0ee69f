"""Judges the studies that are being received, completes those that are, and publishes them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, assert_never

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from hilum.adapters.sql.database import in_transaction, reading
from hilum.adapters.sql.locks import lock_studies
from hilum.adapters.sql.tables import studies
from hilum.domain.routing import early_start, rule_of
from hilum.domain.study import Complete, StudyRevision, Wait, decide_completeness
from hilum.ports.counts import ExpectedCounts
from hilum.ports.events import Publisher
from hilum_listener.handlers.evidence import gather
from hilum_listener.handlers.priors import await_priors, fetched_priors
from hilum_listener.handlers.revisions import draft, end_receiving, is_unchanged, last_received_at, publish
from hilum_listener.handlers.uploads import Uploads
from hilum_listener.settings import AssembleSettings

_LOOK_AGAIN = timedelta(seconds=0.5)
"""How often is looked whether earlier studies have come."""


@dataclass(frozen=True, slots=True)
class Early:
    """Not complete, but a rule starts on what is here."""

    reason: str


class Completion:
    """Knows when to look at which study next; everything else is in the index."""

    def __init__(
        self,
        settings: AssembleSettings,
        publisher: Publisher,
        counts: ExpectedCounts,
        uploads: Uploads | None = None,
    ) -> None:
        """`uploads`: brings instances to where workers read them, where that is not the spool."""
        self._uploads = uploads
        self._settings = settings
        self._publisher = publisher
        self._counts = counts
        self._due: dict[str, datetime] = {}

    def load(self, connection: Connection, now: datetime) -> None:
        """After a start: every study that is being received is looked at once."""
        self._due = dict.fromkeys(
            connection.execute(sa.select(studies.c.study_instance_uid).where(studies.c.receiving)).scalars(), now
        )

    def adopt(self, connection: Connection, now: datetime) -> None:
        """In a cluster: what another listener opened is looked at here too, so that it waits for none that is gone."""
        for uid in connection.execute(sa.select(studies.c.study_instance_uid).where(studies.c.receiving)).scalars():
            self._due.setdefault(uid, now)

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
        complete = [uid for uid, decision in judged.items() if isinstance(decision, Complete | Early)]
        done: list[StudyRevision] = []
        if complete:  # judged again, under the lock
            done = in_transaction(engine, lambda connection: self._complete(connection, complete, now))
        self._settle(judged)
        return done

    def _complete(self, connection: Connection, uids: Sequence[str], now: datetime) -> list[StudyRevision]:
        lock_studies(connection, uids)
        return [one for uid in uids for one in self._act(connection, uid, self._judge(connection, uid, now), now)]

    def _judge(self, connection: Connection, uid: str, now: datetime) -> Complete | Early | Wait | None:
        """As `_decide`, but a study is not ready before workers can read all of it."""
        decision = self._decide(connection, uid, now)
        if self._uploads is None or not isinstance(decision, Complete | Early):
            return decision
        of_these = [uid, *(prior for prior, _day in fetched_priors(connection, uid))]
        missing = [again for one in of_these if (again := self._uploads.missing(connection, one)) is not None]
        return Wait(now + max(missing)) if missing else decision

    def _decide(self, connection: Connection, uid: str, now: datetime) -> Complete | Early | Wait | None:
        """None for a study that is not being received: nothing about it can be due."""
        study = connection.execute(
            sa.select(studies).where(studies.c.study_instance_uid == uid, studies.c.receiving)
        ).one_or_none()
        if study is None:
            return None
        expected = self._counts.expected(uid, since=study.last_received_at)
        evidence = gather(connection, study, expected=expected)
        patience = self._settings.patience(study.modalities)
        decision = decide_completeness(evidence, patience, now=now)
        if isinstance(decision, Complete) and self._settings.prior_rules:
            return self._with_priors(connection, study, decision, evidence.receiving_since + patience.max_age, now)
        if isinstance(decision, Wait) and not study.revision and self._settings.early_rules:
            return self._early(connection, study, decision, now)
        return decision

    def _with_priors(
        self, connection: Connection, study: Any, complete: Complete, until: datetime, now: datetime
    ) -> Complete | Wait:
        """A complete study waits for the earlier ones that its rule asks for, and says what it got."""
        rule = rule_of(draft(connection, study, reason="", now=now), self._settings.prior_rules)
        if rule is None or rule.priors is None:
            return complete
        found = await_priors(connection, study, rule.priors, until=until, now=now)
        if isinstance(found, Wait):
            return Wait(min(found.until, now + _LOOK_AGAIN))
        return Complete(f"{complete.reason}; {found}")

    def _early(self, connection: Connection, study: Any, decision: Wait, now: datetime) -> Early | Wait:
        """A study that waits may start all the same, once."""
        candidate = draft(connection, study, reason="", now=now)
        early = early_start(
            candidate,
            self._settings.early_rules,
            last_received_at=last_received_at(connection, study.study_instance_uid),
            quiet_time=self._settings.patience(study.modalities).quiet_time,
            now=now,
        )
        match early:
            case Complete(reason):
                return Early(reason)
            case Wait(until):
                return Wait(min(until, decision.until))
            case None:
                return decision
            case _:
                assert_never(early)

    def _act(
        self, connection: Connection, uid: str, decision: Complete | Early | Wait | None, now: datetime
    ) -> list[StudyRevision]:
        if not isinstance(decision, Complete | Early):
            return []
        study: Any = connection.execute(sa.select(studies).where(studies.c.study_instance_uid == uid)).one()
        early = isinstance(decision, Early)
        if not early and study.revision and is_unchanged(connection, study):
            end_receiving(connection, uid)
            return []
        return [publish(connection, self._publisher, study, reason=decision.reason, now=now, receiving=early)]

    def _settle(self, judged: Mapping[str, Complete | Early | Wait | None]) -> None:
        for uid, decision in judged.items():
            if isinstance(decision, Wait):
                self._due[uid] = decision.until
            elif not isinstance(decision, Early):  # which is still being received, and looked at next time
                self._due.pop(uid, None)
