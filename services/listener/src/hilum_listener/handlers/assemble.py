"""The assemble role: tails every journal into the index and completes studies."""

import errno
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from hilum.adapters.folder import FolderInstances
from hilum.adapters.sql.database import has_schema, in_transaction, reading
from hilum.adapters.sql.locks import lock_studies
from hilum.adapters.sql.tables import journal_positions
from hilum.adapters.sql.upsert import insert
from hilum.domain.errors import Busy
from hilum.domain.identity import study_key
from hilum.domain.study import StudyRevision
from hilum.ports.clock import Clock
from hilum.ports.counts import ExpectedCounts, NoCounts
from hilum.ports.events import Publisher
from hilum.ports.instances import InstanceStore
from hilum.runtime.logs import Log
from hilum_listener.handlers.completion import Completion
from hilum_listener.handlers.evidence import fold_notice, look_up, note_end, note_senders
from hilum_listener.handlers.index import Arrival, fold, look_at
from hilum_listener.handlers.journal import AssociationChanged, Entry, InstanceReceived, NoticeReceived, Read
from hilum_listener.handlers.notices import NoticeStore
from hilum_listener.handlers.priors import mark_requested
from hilum_listener.handlers.spool_name import is_of_spool, spool_name
from hilum_listener.handlers.tail import Tail
from hilum_listener.handlers.tidy import Tidier, has_spool
from hilum_listener.handlers.uploads import Uploads
from hilum_listener.handlers.verdicts import Verdicts
from hilum_listener.handlers.watermarks import Watermarks
from hilum_listener.settings import AssembleSettings, Places

_LOG = Log("hilum.listener.assemble")
_LOOK_S = 0.02
_ADOPT_EACH = timedelta(seconds=2)
_ENDS_REMEMBERED = 10_000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0
_READ_TRIES = 4
_NOT_THE_FILES_FAULT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Assembler:
    """Everything it knows is in the index; a new one goes on where the last one committed."""

    def __init__(
        self,
        places: Places,
        settings: AssembleSettings,
        engine: Engine,
        publisher: Publisher,
        clock: Clock,
        counts: ExpectedCounts | None = None,
        store: InstanceStore | None = None,
        uploads: Uploads | None = None,
        journal_clock: Clock | None = None,
        watermarks: Watermarks | None = None,
    ) -> None:
        """`store` reads what is in the spool and what `uploads` brought elsewhere; the spool alone without them.

        `journal_clock`: by which the journals' times are, where that isn't `clock`: this machine's own, in a cluster.
        """
        self._places = places
        self._journal_clock = journal_clock
        self._uploads = uploads
        self._tail = Tail(places.journal)
        self._tidier = Tidier(places, settings, engine, clock, self._tail, store=store, watermarks=watermarks)
        self._tries: dict[str, int] = {}
        self._store = store or FolderInstances(places.spool)
        self._notices = NoticeStore(places)
        self._completion = Completion(settings, publisher, counts or NoCounts(), uploads)
        self._verdicts = Verdicts(settings, self._store)
        self._engine = engine
        self._clock = clock
        self._ended: OrderedDict[str, str] = OrderedDict()
        self._fresh = True
        self._adopt_at = clock.now()

    def run(self, stop: threading.Event) -> None:
        """Steps until `stop` is set; waits while the database or the spool is away."""
        pause_s = _FIRST_PAUSE_S
        while not stop.is_set():
            try:
                self.step()
                self._tidier.step()
                pause_s = _FIRST_PAUSE_S
                stop.wait(self._wait_s())
            except Busy as error:
                self._fresh = True
                _LOG.warning("waiting", reason=error.reason, seconds=pause_s)
                stop.wait(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def step(self) -> None:
        """Folds everything that is journaled, then completes what is due.

        A study is judged only when nothing journaled is left to fold, so a backlog can't complete one too early.

        Raises:
            Busy: the database or the spool is away. What was committed before stays.
        """
        if self._fresh:
            self._load()
        for batch in self._tail.unread():
            self._fold(batch)
        self._verdicts.decide(self._engine, self._clock.now())
        self._adopt()
        self._complete()

    def _adopt(self) -> None:
        """From time to time, in a cluster: a study that no listener looks after any more is looked at here as well."""
        now = self._clock.now()
        if self._uploads is None or now < self._adopt_at:
            return
        self._adopt_at = now + _ADOPT_EACH
        with reading(self._engine) as connection:
            self._completion.adopt(connection, now)

    def _wait_s(self) -> float:
        due = self._completion.next_due
        if due is None:
            return _LOOK_S
        return max(0.0, min(_LOOK_S, (due - self._clock.now()) / timedelta(seconds=1)))

    def _load(self) -> None:
        with reading(self._engine) as connection:
            name = spool_name(self._places.spool) if self._places.spool.exists() else ""
            rows = connection.execute(sa.select(journal_positions))
            self._tail.positions = {row.journal: row.position for row in rows if is_of_spool(row.journal, name)}
            self._completion.load(connection, self._clock.now())
            if self._uploads is not None:
                self._uploads.load(connection)
        self._verdicts.look_again()
        self._fresh = False
        _LOG.info("assembling", count=len(self._tail.positions))

    def _fold(self, batch: Read) -> None:
        arrivals, notices, ends = [], [], []
        for journaled, _end in batch.entries:
            entry = self._by_the_site_s_clock(journaled)
            match entry:
                case None:
                    _LOG.error("damaged line", journal=batch.journal)
                case InstanceReceived():
                    arrivals.append(self._look(entry))
                case NoticeReceived():
                    notices.append(look_up(entry, self._notices))
                case AssociationChanged():
                    ends.append(entry)

        def write(connection: Connection) -> tuple[list[tuple[Arrival, str]], list[str]]:
            self._advance(connection, batch)
            lock_studies(connection, [a.header.study_instance_uid for a in arrivals if a.header is not None])
            reasons = [(arrival, fold(connection, arrival)) for arrival in mark_requested(connection, arrivals)]
            brought = _brought(reasons)
            note_senders(connection, [pair for pair, requested in brought if not requested], self._ended)
            touched = [study for (study, _association), _requested in brought]
            touched += [study for notice in notices for study in fold_notice(connection, notice)]
            touched += [study for end in ends for study in note_end(connection, end)]
            return reasons, touched

        reasons, touched = in_transaction(self._engine, write)
        self._tail.positions[batch.journal] = batch.end
        self._remember(ends)
        self._completion.touch(touched, self._clock.now())
        if self._uploads is not None:
            self._uploads.note(arrival.entry.sop_instance_uid for arrival, reason in reasons if not reason)
        if notices:
            self._verdicts.look_again()
        for arrival, reason in reasons:
            if reason:
                _LOG.warning("quarantined", uri=arrival.entry.uri, reason=reason, peer=arrival.entry.peer)

    def _by_the_site_s_clock(self, entry: Entry | None) -> Entry | None:
        """Waits go by the database's clock, and the machine that wrote the journal may be minutes off."""
        if entry is None or self._journal_clock is None or isinstance(entry, AssociationChanged):
            return entry
        return replace(entry, received_at=entry.received_at + (self._clock.now() - self._journal_clock.now()))

    def _look(self, entry: InstanceReceived) -> Arrival:
        """Reads the file; one that can't be read after some tries is quarantined and stops no one.

        Raises:
            Busy: to be tried again: it may pass, or it isn't this file alone.
        """
        try:
            arrival = look_at(entry, self._store)
        except OSError as error:
            tries = self._tries[entry.uri] = self._tries.get(entry.uri, 0) + 1
            name = errno.errorcode.get(error.errno or 0, type(error).__name__)
            may_pass = error.errno != errno.ENOENT and tries < _READ_TRIES
            if may_pass or error.errno in _NOT_THE_FILES_FAULT or not has_spool(self._places):
                raise Busy(f"a file of the spool can't be read: {name}") from error
            arrival = Arrival(entry, None, False, f"the stored file can't be read ({name})")
        self._tries.pop(entry.uri, None)
        return arrival

    def _remember(self, ends: Sequence[AssociationChanged]) -> None:
        """An association's end may be journaled elsewhere than its instances, and be folded before them."""
        self._ended.update((end.association, end.change) for end in ends if end.change != "opened")
        while len(self._ended) > _ENDS_REMEMBERED:
            self._ended.popitem(last=False)

    def _advance(self, connection: Connection, batch: Read) -> None:
        """Moves the position, and fails when another process moved it meanwhile: one assembler for each journal."""
        table = journal_positions.c
        if batch.start:
            mine = sa.and_(table.journal == batch.journal, table.position == batch.start)
            moved = connection.execute(sa.update(journal_positions).where(mine).values(position=batch.end))
        else:
            first = insert(connection, journal_positions).values(journal=batch.journal, position=batch.end)
            moved = connection.execute(
                first.on_conflict_do_update(
                    index_elements=["journal"], set_={"position": batch.end}, where=table.position == 0
                )
            )
        if moved.rowcount != 1:
            raise Busy("another process folds the same journal")

    def _complete(self) -> None:
        for revision in self._completion.complete_due(self._engine, self._clock.now()):
            _LOG.info(
                "study complete",
                study=study_key(revision.study_instance_uid),
                revision=revision.revision,
                instances=_count(revision),
                reason=revision.complete_reason,
            )


def _brought(reasons: Sequence[tuple[Arrival, str]]) -> list[tuple[tuple[str, str], bool]]:
    """Study and association of what may have opened or reopened a study, or only brought what it waits for."""
    return [
        ((arrival.header.study_instance_uid, arrival.entry.association), arrival.requested)
        for arrival, reason in reasons
        if arrival.header is not None and not reason and not arrival.own
    ]


def _count(revision: StudyRevision) -> int:
    return sum(len(s.instances) for s in revision.series)


def wait_for_schema(engine: Engine, stop: threading.Event) -> None:
    """Waits until the database is there and migrated, or `stop` is set."""
    while not stop.is_set():
        try:
            if has_schema(engine):
                return
        except Busy:
            pass
        stop.wait(_FIRST_PAUSE_S)
