"""Removes what nobody needs any more, little by little: second files of the same bytes, old journals, what is expired.

A file goes in two steps: the index puts its URI down in `removals` in the transaction that ends the last reference to
it, and later the file is unlinked and the row deleted. A kill in between leaves the row, and the next run goes on.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from hilum.adapters.folder import FolderInstances
from hilum.adapters.sql.database import reading, transaction
from hilum.adapters.sql.locks import lock_studies
from hilum.adapters.sql.tables import (
    commitment_requests,
    commitments,
    deliveries,
    expirations,
    instances,
    jobs,
    journal_positions,
    outcomes,
    quarantine,
    removals,
    retrievals,
    series,
    studies,
)
from hilum.adapters.sql.upsert import insert
from hilum.domain.errors import Busy, Reject, Retry
from hilum.domain.results import DeliveryState
from hilum.ports.clock import Clock
from hilum.ports.instances import InstanceStore
from hilum.runtime.logs import Log
from hilum_listener.handlers.closing import Closer
from hilum_listener.handlers.journal import is_growing, sync_folder
from hilum_listener.handlers.journal_since import forget_journals
from hilum_listener.handlers.leftovers import Leftovers
from hilum_listener.handlers.notice_retention import forget_notices
from hilum_listener.handlers.notices import NoticeStore
from hilum_listener.handlers.retrieval import Kind
from hilum_listener.handlers.spool_name import of_spool, spool_name
from hilum_listener.handlers.tail import Tail
from hilum_listener.handlers.watermarks import Watermarks, watermarks_of
from hilum_listener.settings import AssembleSettings, Places

_LOG = Log("hilum.listener.tidy")
_UNLINK_EACH = timedelta(seconds=0.5)
_UNLINKED_AT_ONCE = 50  # deleting a large spool in one go slows ext4 down for minutes
_EXPIRE_EACH, _EXPIRE_EACH_PRESSED = timedelta(seconds=30), timedelta(seconds=1)
_UNLINKED_AT_ONCE_PRESSED = 1000
_FORGET_EACH = timedelta(minutes=10)  # it looks through whole tables
_FORGOTTEN_AT_ONCE = 50  # transactions
_LOOKED_AT_ONCE = 100
_STAMP = "%Y%m%dT%H%M%S"
_UNDER_WAY = [state.value for state in (DeliveryState.QUEUED, DeliveryState.SENDING, DeliveryState.PARKED)]
_AT_WORK = ["queued", "claimed"]  # states of a job, `hilum_worker`


class Tidier:
    """Works in the assembler's thread, so nothing is folded meanwhile."""

    def __init__(
        self,
        places: Places,
        settings: AssembleSettings,
        engine: Engine,
        clock: Clock,
        tail: Tail,
        *,
        store: InstanceStore | None = None,
        watermarks: Watermarks | None = None,
    ) -> None:
        """`store`: where instances lie in a cluster; each listener removes only what is in its own spool."""
        self._places = places
        self._spool = FolderInstances(places.spool)
        self._store = store
        self._retention = settings.retention
        self._archive = settings.archive
        self._engine = engine
        self._clock = clock
        self._tail = tail
        self._unlink_at = self._expire_at = self._forget_at = clock.now()
        self._looked_until: datetime | None = None
        self._notices = NoticeStore(places)
        self._leftovers = Leftovers(places, engine, settings.retention.journal_days)
        self._closer = Closer(engine, clock.now())
        self._part = 0
        self._watermarks = watermarks or watermarks_of(settings.retention, places, engine, None)

    def step(self) -> None:
        """Does a little of what is due.

        Raises:
            Busy: the database or the spool is away.
        """
        now = self._clock.now()
        if self._watermarks.look(now):  # the disk fills: what may go is looked for from the oldest on
            self._looked_until, self._expire_at = None, now
        if now >= self._unlink_at:
            self._unlink_at = now + _UNLINK_EACH
            self._unlink_some()
            self._leftovers.step(now)
        if now >= self._expire_at:
            self._expire_at = now + (_EXPIRE_EACH_PRESSED if self._watermarks.pressed else _EXPIRE_EACH)
            self._expire(now)
        self._closer.step(now)

    def _unlink_some(self) -> None:
        try:
            with reading(self._engine) as connection:
                query = sa.select(removals.c.uri).where(self._mine()).order_by(removals.c.uri)
                at_once = _UNLINKED_AT_ONCE_PRESSED if self._watermarks.spool_pressed else _UNLINKED_AT_ONCE
                uris = list(connection.execute(query.limit(at_once)).scalars())
            if not uris:
                return
            if not has_spool(self._places):
                raise Busy("the spool is away")
            self._unlink(uris)
        except OSError as error:
            raise Busy(f"a file of the spool can't be removed: {type(error).__name__}") from error
        with transaction(self._engine) as connection:
            connection.execute(sa.delete(removals).where(removals.c.uri.in_(uris)))

    def _mine(self) -> sa.ColumnElement[bool]:
        """What this listener may remove: all of it on one machine; in a cluster its own spool's (`StoreRemovals`)."""
        if self._store is None:
            return sa.true()
        if not has_spool(self._places):  # nothing was received here so far
            return sa.false()
        return removals.c.uri.like(of_spool(spool_name(self._places.spool)))

    def _unlink(self, uris: Iterable[str]) -> None:
        folders = set()
        for uri in uris:
            try:
                path = self._spool.path(uri)
            except (Reject, Retry):  # gone already
                continue
            path.unlink(missing_ok=True)
            folders.add(path.parent)
        for folder in folders:  # or a power cut could bring files back that no row names any more
            sync_folder(folder)

    def _expire(self, now: datetime) -> None:
        try:
            self._prune_journals(now)
        except OSError as error:
            raise Busy(f"a journal can't be removed: {type(error).__name__}") from error
        if self._retention.notice_days is not None and has_spool(self._places):
            self._prune_notices(now - timedelta(days=self._retention.notice_days))
            self._forget_notices(now, now - timedelta(days=self._retention.notice_days))
        if self._retention.quarantine_days is not None:
            self._expire_quarantine(now, now - timedelta(days=self._retention.quarantine_days))
        days = self._watermarks.study_days
        if days is not None and not self._archive:
            self._expire_studies(now, now - timedelta(days=days))
            self._expire_priors(now, now - timedelta(days=days))

    def _prune_journals(self, now: datetime) -> None:
        days = self._retention.journal_days
        if days is None or not has_spool(self._places):
            return
        until = now - timedelta(days=days)
        old = [name for name in self._tail.ended if _is_older(self._places.journal / name, until)]
        if old:
            forget_journals(self._places.journal, until.timestamp())
        pruned = [name for name in old if _remove_if_older(self._places.journal / name, until)]
        for unnamed in self._places.journal.glob("*.part"):
            if not is_growing(unnamed):
                _remove_if_older(unnamed, until)
        # those that an earlier run removed before it was killed
        lost = [name for name in self._tail.positions if _stamped_before(name, until) and not self._has(name)]
        names = sorted({*pruned, *lost})
        if not names:
            return
        sync_folder(self._places.journal)
        with transaction(self._engine) as connection:
            for name in names:
                connection.execute(sa.delete(journal_positions).where(journal_positions.c.journal == name))
        for name in names:
            self._tail.forget(name)
        _LOG.info("journals removed", count=len(names))

    def _prune_notices(self, until: datetime) -> None:
        """A part of them each time. What they say is in the index: the assembler folded it before it tidies."""
        try:
            removed = self._notices.prune(until, part=self._part)
        except OSError as error:
            raise Busy(f"a notice can't be removed: {type(error).__name__}") from error
        self._part = (self._part + 1) % 256
        if removed:
            _LOG.info("notices removed", count=removed)

    def _forget_notices(self, now: datetime, until: datetime) -> None:
        if now < self._forget_at:
            return
        self._forget_at = now + _FORGET_EACH
        for _ in range(_FORGOTTEN_AT_ONCE):
            with transaction(self._engine) as connection:
                forgotten = forget_notices(connection, until)
            if forgotten.undelivered:
                _LOG.warning("commitment reports given up: nobody took them", count=forgotten.undelivered)
            if not forgotten.rows:
                return

    def _has(self, name: str) -> bool:
        return (self._places.journal / name).exists()

    def _expire_quarantine(self, now: datetime, until: datetime) -> None:
        with reading(self._engine) as connection:
            query = sa.select(quarantine.c.id, quarantine.c.uri, quarantine.c.sop_instance_uid).where(
                quarantine.c.received_at <= until,
                quarantine.c.sop_instance_uid.not_in(sa.select(commitments.c.sop_instance_uid)),
            )
            rows = connection.execute(query.limit(_LOOKED_AT_ONCE)).all()
        if not rows:
            return
        with transaction(self._engine) as connection:
            for row in rows:
                _put_down(connection, sa.select(sa.literal(row.uri)), "quarantined for long enough", now)
            connection.execute(sa.delete(quarantine).where(quarantine.c.id.in_([row.id for row in rows])))
        _LOG.info("quarantined files expired", count=len(rows))

    def _expire_studies(self, now: datetime, until: datetime) -> None:
        """Looks at some studies, the oldest first, and goes on behind them the next time."""
        with reading(self._engine) as connection:
            if connection.execute(sa.select(commitment_requests.c.notice).where(_undecided()).limit(1)).first():
                return  # what it asks for will be answered for
            looked, expired = self._candidates(connection, until)
        reason, pressed = self._watermarks.reason, self._watermarks.pressed
        gone: list[int] = []
        for study in expired:
            with transaction(self._engine) as connection:
                lock_studies(connection, [study])
                if not _may_go(connection, study):
                    continue
                gone.append(self._drop(connection, study, reason, now))
            self._watermarks.freed(gone[-1])
            if pressed and not self._watermarks.pressed:
                break
        else:
            self._looked_until = looked
        if gone:
            _LOG.info("images of old studies removed", count=len(gone), bytes=sum(gone), reason=reason)
        elif looked is None:
            self._watermarks.nothing_left(now)

    def _expire_priors(self, now: datetime, until: datetime) -> None:
        """Earlier studies that were fetched, so long after the last time; those that a modality sent are studies."""
        prior = retrievals.c.kind == Kind.PRIOR
        lately = sa.or_(retrievals.c.finished_at.is_(None), retrievals.c.finished_at > until)
        query = (
            sa.select(retrievals.c.target_uid)
            .where(
                prior,
                retrievals.c.target_uid.not_in(sa.select(retrievals.c.target_uid).where(prior, lately)),
                retrievals.c.target_uid.not_in(sa.select(studies.c.study_instance_uid)),
                retrievals.c.target_uid.in_(sa.select(instances.c.study_instance_uid)),
            )
            .distinct()
            .limit(_LOOKED_AT_ONCE)
        )
        with reading(self._engine) as connection:
            expired = list(connection.execute(query).scalars())
        for study in expired:
            with transaction(self._engine) as connection:
                files = sa.select(instances.c.sop_instance_uid).where(_is(instances, study))
                promised = sa.select(commitments.c.sop_instance_uid).where(commitments.c.sop_instance_uid.in_(files))
                if connection.execute(promised.limit(1)).first() is None:
                    self._drop(connection, study, "the earlier study was fetched long enough ago", now)

    def _drop(self, connection: Connection, study: str, reason: str, now: datetime) -> int:
        """Returns how many bytes that frees."""
        counted = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(instances.c.size_bytes), 0))
        count, size = connection.execute(counted.where(_is(instances, study))).one()
        _put_down(connection, sa.select(instances.c.uri).where(_is(instances, study)), reason, now)
        for table in (instances, series):
            connection.execute(sa.delete(table).where(_is(table, study)))
        said = {"instance_count": count, "size_bytes": int(size), "reason": reason}
        connection.execute(sa.insert(expirations).values(study_instance_uid=study, expired_at=now, **said))
        return int(size)

    def _candidates(self, connection: Connection, until: datetime) -> tuple[datetime | None, list[str]]:
        query = sa.select(studies.c.study_instance_uid, studies.c.last_received_at).where(
            sa.not_(studies.c.receiving), studies.c.last_received_at <= until
        )
        if self._looked_until is not None:
            query = query.where(studies.c.last_received_at > self._looked_until)
        rows: Sequence[Any] = connection.execute(
            query.order_by(studies.c.last_received_at).limit(_LOOKED_AT_ONCE)
        ).all()
        looked = rows[-1].last_received_at if len(rows) == _LOOKED_AT_ONCE else None
        return looked, [row.study_instance_uid for row in rows if _may_go(connection, row.study_instance_uid)]


def has_spool(places: Places) -> bool:
    """False when the folder itself is away, such as a volume that isn't mounted."""
    try:
        return any(places.spool.glob("incoming*")) and any(places.journal.iterdir())
    except OSError:
        return False


def _may_go(connection: Connection, study: str) -> bool:
    """True when the study has files, its newest revision is ended, and no one needs or was promised them."""
    files = sa.select(instances.c.sop_instance_uid).where(instances.c.study_instance_uid == study)
    ended = sa.select(outcomes.c.state).where(
        outcomes.c.study_instance_uid == study,
        outcomes.c.revision == sa.select(studies.c.revision).where(_is(studies, study)).scalar_subquery(),
    )
    kept_for = (
        sa.select(jobs.c.request_id).where(_is(jobs, study), jobs.c.state.in_(_AT_WORK)),
        sa.select(deliveries.c.id).where(_is(deliveries, study), deliveries.c.state.in_(_UNDER_WAY)),
        sa.select(commitments.c.sop_instance_uid).where(commitments.c.sop_instance_uid.in_(files)),
        sa.select(studies.c.study_instance_uid).where(_is(studies, study), studies.c.receiving),
    )
    needed = [files.limit(1), ended]
    return all(connection.execute(query).first() for query in needed) and not any(
        connection.execute(query.limit(1)).first() for query in kept_for
    )


def _is(table: sa.Table, study: str) -> sa.ColumnElement[bool]:
    return table.c.study_instance_uid == study


def _undecided() -> sa.ColumnElement[bool]:
    return commitment_requests.c.state == "asked"


def _put_down(connection: Connection, uris: "sa.Select[tuple[str]]", reason: str, now: datetime) -> None:
    found = uris.add_columns(sa.literal(reason), sa.literal(now, type_=removals.c.noted_at.type)).where(sa.true())
    statement = insert(connection, removals).from_select(["uri", "reason", "noted_at"], found)
    connection.execute(statement.on_conflict_do_nothing(index_elements=["uri"]))


def _is_older(path: Path, until: datetime) -> bool:
    try:
        return path.stat().st_mtime <= until.timestamp()
    except FileNotFoundError:
        return False


def _remove_if_older(path: Path, until: datetime) -> bool:
    if not _is_older(path, until):
        return False
    path.unlink(missing_ok=True)
    return True


def _stamped_before(name: str, until: datetime) -> bool:
    try:
        return datetime.strptime(name[:15], _STAMP).replace(tzinfo=until.tzinfo) < until
    except ValueError:
        return False
