"""Where the parts of a STOW-RS request go: the same spool and the same journal as a C-STORE's."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import datetime

from hilum_listener.handlers.entries import entry_of
from hilum_listener.handlers.journal import AssociationChanged, JournalWriter
from hilum_listener.handlers.part10 import Identity
from hilum_listener.handlers.spool import Spool, Stored, Writing
from hilum_listener.handlers.stow import Draft

_LOOK_EACH_BYTES = 1 << 25
_KEPT_AT_ONCE = 8
"""Of one request. Syncs that wait together cost the disk little more than one."""


class DurableStore:
    """Of one request: `association` names it in the journal, as an association's id does."""

    def __init__(
        self,
        spool: Spool,
        journal: JournalWriter,
        now: Callable[[], datetime],
        pool: Executor,
        *,
        calling_ae: str,
        peer: str,
        association: str,
    ) -> None:
        self._spool = spool
        self._journal = journal
        self._now = now
        self._pool = pool
        self._free = threading.BoundedSemaphore(_KEPT_AT_ONCE)
        self._calling_ae = calling_ae
        self._peer = peer
        self._association = association

    def begin(self) -> Draft:
        return _DurableDraft(self, self._spool.begin())

    def check(self) -> None:
        """Raises OSError when nothing can be stored now: less free space than the site keeps, or no writing at all."""
        self._spool.begin().abandon()

    def note(self, change: str) -> None:
        """Journals that the request began (`opened`), was answered (`released`) or broke off (`aborted`)."""
        entry = AssociationChanged(change, self._calling_ae, self._peer, self._association, self._now())
        with contextlib.suppress(OSError):  # the next instance will meet the same and be refused
            self._journal.append(entry, sync=False)

    def keep(self, writing: Writing, identity: Identity) -> Callable[[], None]:
        """As `Draft.keep`; waits for one that is under way when they are as many as may be."""
        self._free.acquire()
        try:
            return self._pool.submit(self._keep, writing, identity).result
        except BaseException:
            self._free.release()
            raise

    def _keep(self, writing: Writing, identity: Identity) -> None:
        try:
            self._make_durable(writing, identity)
        finally:
            self._free.release()

    def _make_durable(self, writing: Writing, identity: Identity) -> None:
        """Returns when the file, its name and its journal entry are synced."""

        def note(stored: Stored) -> None:
            self._journal.append(
                entry_of(
                    stored,
                    identity,
                    calling_ae=self._calling_ae,
                    peer=self._peer,
                    association=self._association,
                    received_at=self._now(),
                )
            )

        writing.commit(note)


class _DurableDraft:
    """Looks at the free space again and again, since one part may be larger than all that is left."""

    def __init__(self, store: DurableStore, writing: Writing) -> None:
        self._store = store
        self._writing = writing
        self._look_at = _LOOK_EACH_BYTES

    def write(self, data: memoryview) -> None:
        self._writing.write((data,))
        if self._writing.size >= self._look_at:
            self._look_at += _LOOK_EACH_BYTES
            self._store.check()

    def keep(self, identity: Identity) -> Callable[[], None]:
        return self._store.keep(self._writing, identity)

    def abandon(self) -> None:
        self._writing.abandon()
