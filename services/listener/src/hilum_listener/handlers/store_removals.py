"""Deletes from the store what the index put down, in a thread of its own: a store that is away holds up nobody."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.folder import SCHEME
from hilum.adapters.sql.database import reading, transaction
from hilum.adapters.sql.tables import removals
from hilum.domain.errors import Busy, Reject
from hilum.ports.clock import Clock
from hilum.ports.instances import InstanceStore
from hilum.runtime.logs import Log

_LOG = Log("hilum.listener.removals")
_AT_ONCE = 32
_THREADS = 8
_IDLE_S = 1.0
_CLEAR_EACH, _UNFINISHED_FOR = timedelta(hours=1), timedelta(days=1)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0


class StoreRemovals:
    """Any number of listeners may do it: each takes rows that no other one has locked."""

    def __init__(self, store: InstanceStore, engine: Engine, clock: Clock) -> None:
        self._store = store
        self._engine = engine
        self._clock = clock
        self._clear_at = clock.now()

    def start(self, stop: threading.Event) -> None:
        threading.Thread(target=self._run, args=(stop,), name="removals", daemon=True).start()

    def step(self) -> int:
        """Deletes some objects and their rows; how many.

        The rows stay locked while their objects go: an upload of the same instance waits, and then finds it gone.

        Raises:
            Busy: the store or the database is away.
        """
        with reading(self._engine) as connection:
            if connection.execute(_put_down().limit(1)).first() is None:
                return 0
        with transaction(self._engine) as connection:
            uris = list(connection.execute(_put_down().limit(_AT_ONCE).with_for_update(skip_locked=True)).scalars())
            with ThreadPoolExecutor(_THREADS) as pool:
                list(pool.map(self._delete, uris))
            connection.execute(sa.delete(removals).where(removals.c.uri.in_(uris)))
        return len(uris)

    def clear(self) -> None:
        """Once an hour: what killed uploads left. Raises Busy."""
        now = self._clock.now()
        if now < self._clear_at:
            return
        self._clear_at = now + _CLEAR_EACH
        count = self._store.clear_unfinished(before=now - _UNFINISHED_FOR)
        if count:
            _LOG.info("unfinished uploads removed", count=count)

    def _delete(self, uri: str) -> None:
        try:
            self._store.delete(uri)
        except Reject as error:  # of a store that the site had before
            _LOG.error("can't be removed", uri=uri, reason=error.reason)

    def _run(self, stop: threading.Event) -> None:
        pause_s = _FIRST_PAUSE_S
        while not stop.is_set():
            try:
                if self.step() == 0:
                    self.clear()
                    stop.wait(_IDLE_S)
                pause_s = _FIRST_PAUSE_S
            except Busy as error:
                _LOG.warning("waiting", reason=error.reason, seconds=pause_s)
                stop.wait(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            except Exception as error:  # a bug
                _LOG.error("removals broke", exc_info=error)
                stop.set()


def _put_down() -> sa.Select[tuple[str]]:
    return sa.select(removals.c.uri).where(sa.not_(removals.c.uri.like(f"{SCHEME}%"))).order_by(removals.c.uri)
