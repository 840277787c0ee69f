"""Brings received instances from the spool to where workers read them; a study is ready when all of its are there.

An upload begins as soon as its instance is in the index, so most of a study is there before it is complete. The row's
URI changes when the store has confirmed, and from then on the file in the spool may go.
"""

import queue
import threading
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from hilum.adapters.folder import SCHEME
from hilum.adapters.sql.database import in_transaction, reading
from hilum.adapters.sql.tables import instances, removals, studies
from hilum.adapters.sql.upsert import insert
from hilum.domain.errors import Busy, Reject, Retry
from hilum.ports.clock import Clock
from hilum.ports.instances import InstanceStore
from hilum.runtime.logs import Log

_LOG = Log("hilum.listener.uploads")
_THREADS = 4
_BATCH = 16
_IDLE_S = 0.2
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0
_LOOK_AGAIN = timedelta(milliseconds=20)
_LOOK_AGAIN_LATER = timedelta(seconds=1)
_LOST = timedelta(minutes=10)
"""How long a study waits for an instance that is in no spool here."""


class Uploads:
    """Uploads in threads of its own; the index remembers what is left to do.

    What a listener received is in its own spool, so its own uploads bring it; an instance of another one is waited for.

    Args:
        spool: where files of `spool:` URIs are. `store`: where workers read.
    """

    def __init__(self, spool: InstanceStore, store: InstanceStore, engine: Engine, clock: Clock) -> None:
        self._spool = spool
        self._store = store
        self._engine = engine
        self._clock = clock
        self._waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._known: set[str] = set()
        self._unusable: set[str] = set()
        self._elsewhere: dict[str, datetime] = {}
        self._lock = threading.Lock()
        self._away = False

    def start(self, stop: threading.Event) -> None:
        """Begins to upload; ends when `stop` is set, and what is left is found again by `load`."""
        for number in range(_THREADS):
            threading.Thread(target=self._run, args=(stop,), name=f"upload-{number}", daemon=True).start()

    def load(self, connection: Connection) -> None:
        """After a start: everything of studies that are being received."""
        self.note(
            connection.execute(
                sa.select(instances.c.sop_instance_uid)
                .join(studies, studies.c.study_instance_uid == instances.c.study_instance_uid)
                .where(studies.c.receiving, _in_spool())
            ).scalars()
        )

    def note(self, sop_instance_uids: Iterable[str]) -> None:
        """These are in the index now."""
        with self._lock:
            new = [uid for uid in sop_instance_uids if uid not in self._known]
            self._known.update(new)
        for uid in new:
            self._waiting.put(uid)

    def missing(self, connection: Connection, study_instance_uid: str) -> timedelta | None:
        """None when the whole study is where workers read; else it is being brought there: when to look again.

        A file whose bytes are no longer those that were received stays behind: the study goes on without it, and a
        worker that was to read it says so.
        """
        left = connection.execute(
            sa.select(instances.c.sop_instance_uid).where(
                instances.c.study_instance_uid == study_instance_uid, _in_spool()
            )
        ).scalars()
        wanted = [uid for uid in left if uid not in self._unusable]
        if not wanted:
            return None
        elsewhere = [uid for uid in wanted if self._is_elsewhere(uid)]
        self.note(wanted)
        return _LOOK_AGAIN_LATER if elsewhere or self._away else _LOOK_AGAIN

    def _is_elsewhere(self, uid: str) -> bool:
        """Another listener's; not for ever, since a file may also be lost."""
        since = self._elsewhere.get(uid)
        if since is None:
            return False
        if self._clock.now() - since > _LOST:
            self._unusable.add(uid)
            _LOG.error("no listener brings an instance to the store", count=1)
        return True

    def step(self, *, wait_s: float = 0.0) -> int:
        """Uploads some of what waits, in the caller's thread; how many. Waits so long for the first.

        Raises:
            Busy: the store or the database is away. What was taken waits again.
        """
        taken = self._take(wait_s)
        if not taken:
            return 0
        try:
            done = self._upload(taken)
            if done:
                in_transaction(self._engine, lambda connection: self._move(connection, done))
        except BaseException:
            for uid in taken:
                self._waiting.put(uid)
            raise
        with self._lock:
            self._known.difference_update(taken)
        return len(taken)

    def _take(self, wait_s: float) -> list[str]:
        taken: list[str] = []
        try:
            taken.append(self._waiting.get(timeout=wait_s) if wait_s else self._waiting.get_nowait())
            while len(taken) < _BATCH:
                taken.append(self._waiting.get_nowait())
        except queue.Empty:
            pass
        return taken

    def _upload(self, taken: Sequence[str]) -> dict[str, tuple[str, str]]:
        """The old and the new URI of each that the store confirmed, by its SOP Instance UID."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                sa.select(instances.c.sop_instance_uid, instances.c.uri, instances.c.sha256).where(
                    instances.c.sop_instance_uid.in_(taken), _in_spool()
                )
            ).all()
        targets = [self._store.uri_of(sop_instance_uid=uid, sha256=sha256) for uid, _uri, sha256 in rows]
        in_transaction(self._engine, lambda connection: _take_back(connection, targets))
        done: dict[str, tuple[str, str]] = {}
        for uid, uri, sha256 in rows:
            try:
                file = self._spool.path(uri)
                done[uid] = (uri, self._store.publish(file, sop_instance_uid=uid, sha256=sha256))
            except (Retry, FileNotFoundError):
                self._elsewhere.setdefault(uid, self._clock.now())  # in another listener's spool
            except Reject as error:
                self._unusable.add(uid)
                _LOG.error("can't be published", uri=uri, reason=error.reason)
            except OSError as error:
                raise Busy(f"a file of the spool can't be read: {type(error).__name__}") from error
        return done

    def _move(self, connection: Connection, done: dict[str, tuple[str, str]]) -> None:
        """Row by row in the order of their UIDs; the file in the spool is put down for removal in the same commit."""
        for uid in sorted(done):
            old, new = done[uid]
            moved = connection.execute(
                sa.update(instances).where(instances.c.sop_instance_uid == uid, instances.c.uri == old).values(uri=new)
            )
            if moved.rowcount:
                note = insert(connection, removals).values(
                    uri=old, reason="published to the store", noted_at=self._clock.now()
                )
                connection.execute(note.on_conflict_do_nothing(index_elements=["uri"]))

    def _run(self, stop: threading.Event) -> None:
        pause_s = _FIRST_PAUSE_S
        while not stop.is_set():
            try:
                if self.step(wait_s=_IDLE_S):
                    if self._away:
                        _LOG.info("the store takes instances again")
                    self._away, pause_s = False, _FIRST_PAUSE_S
            except Busy as error:
                if not self._away:
                    _LOG.warning("uploads wait", reason=error.reason)
                self._away = True
                stop.wait(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            except Exception as error:  # a bug: it must not look as if the store were away
                _LOG.error("uploads broke", exc_info=error)
                stop.set()


def _take_back(connection: Connection, uris: Sequence[str]) -> None:
    """An instance that retention removed comes again: it must not be deleted just after it was found to be there.

    Waits for a removal that is under way (`hilum_listener.handlers.store_removals`).
    """
    connection.execute(sa.delete(removals).where(removals.c.uri.in_(uris)))


def _in_spool() -> sa.ColumnElement[bool]:
    return instances.c.uri.like(f"{SCHEME}%")
