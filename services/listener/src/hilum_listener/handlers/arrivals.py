"""What an archive sends at Hilum's request: durable as everything else that comes in, and only what was asked for."""

import contextlib
import errno
from collections.abc import Callable
from datetime import datetime

from hilum.domain.errors import Reject
from hilum.runtime.logs import Log
from hilum_listener.handlers.archive import Fetched
from hilum_listener.handlers.entries import entry_of
from hilum_listener.handlers.journal import AssociationChanged, JournalWriter
from hilum_listener.handlers.part10 import Identity, file_head, identify
from hilum_listener.handlers.receive import Reception, Request, Status
from hilum_listener.handlers.spool import Spool, Stored, Writing
from hilum_listener.handlers.stow import Draft

_LOG = Log("hilum.listener.fetch")
_HEAD_BYTES = 1 << 16


class FetchedInstances:
    """Of one retrieval: the instances `wanted` of one study, with at most `limit_bytes` in all.

    `association` names the retrieval in the journal; `alive` says whether it still belongs to this process.
    """

    def __init__(
        self,
        spool: Spool,
        journal: JournalWriter,
        now: Callable[[], datetime],
        *,
        study_instance_uid: str,
        wanted: frozenset[str],
        limit_bytes: int,
        calling_ae: str,
        association: str,
        alive: Callable[[], bool],
    ) -> None:
        self._spool = spool
        self._journal = journal
        self._now = now
        self._study = study_instance_uid
        self._wanted = wanted
        self._left = limit_bytes
        self._calling_ae = calling_ae
        self._association = association
        self._alive = alive
        self.kept: set[str] = set()
        """SOP Instance UIDs of those that are durable."""
        self.unwanted = 0
        """How many came that were not asked for, or not of this study."""
        self.over_limit = self.lost = False

    @property
    def full(self) -> bool:
        return self.over_limit or self.lost

    def note(self, change: str) -> None:
        """Journals that the retrieval began (`opened`) and how it ended (`released`, `aborted`)."""
        with contextlib.suppress(OSError):  # the next instance will meet the same and be refused
            self._journal.append(
                AssociationChanged(change, self._calling_ae, "", self._association, self._now()), sync=False
            )

    def take(self, fetched: Fetched) -> int:
        self.lost = self.lost or not self._alive()
        if self.full:
            return int(Status.OUT_OF_RESOURCES)
        if fetched.sop_instance_uid not in self._wanted:
            return self._refuse_unwanted()
        reception = Reception(self._request(fetched), self._spool, self._journal, self._now)
        try:
            return self._receive(fetched, reception)
        except Exception as error:
            reception.abandon()
            _LOG.error("not stored", association=self._association, exc_info=error)
            return int(Status.CANNOT_UNDERSTAND)

    def _receive(self, fetched: Fetched, reception: Reception) -> int:
        head: bytearray | None = bytearray()
        for piece in fetched.pieces:
            if head is not None:
                head += piece[: _HEAD_BYTES - len(head)]
                if len(head) >= _HEAD_BYTES:
                    if not self._is_of_study(fetched, bytes(head)):
                        reception.abandon()
                        return self._refuse_unwanted()
                    head = None
            if not self.spend(len(piece)):
                reception.abandon()
                return int(Status.OUT_OF_RESOURCES)
            reception.write((piece,))
        if head is not None and not self._is_of_study(fetched, bytes(head)):
            reception.abandon()
            return self._refuse_unwanted()
        status = reception.finish()
        if status is Status.SUCCESS:
            self.kept.add(fetched.sop_instance_uid)
        return int(status)

    def _request(self, fetched: Fetched) -> Request:
        return Request(
            fetched.sop_class_uid,
            fetched.sop_instance_uid,
            fetched.transfer_syntax_uid,
            self._calling_ae,
            "",
            self._association,
        )

    def _is_of_study(self, fetched: Fetched, head: bytes) -> bool:
        """False too when the study can't be read: nobody knows then what it belongs to."""
        meta = file_head(
            sop_class_uid=fetched.sop_class_uid,
            sop_instance_uid=fetched.sop_instance_uid,
            transfer_syntax_uid=fetched.transfer_syntax_uid,
        )
        try:
            return identify(meta + head).study_instance_uid == self._study
        except Reject:
            return False

    def _refuse_unwanted(self) -> int:
        self.unwanted += 1
        return int(Status.DOES_NOT_MATCH_SOP_CLASS)

    def spend(self, size: int) -> bool:
        """Counts bytes that arrived; False when they are more than may be."""
        self._left -= size
        self.over_limit = self.over_limit or self._left < 0
        return not self.over_limit

    def begin(self) -> Draft:
        self.lost = self.lost or not self._alive()
        if self.full:
            raise OSError(errno.EDQUOT, "no more is taken of this retrieval")
        return _FileDraft(self, self._spool.begin())

    def keep(self, writing: Writing, identity: Identity) -> None:
        """Makes a Part 10 file durable. Raises `OSError` when it isn't, or wasn't asked for."""
        if identity.sop_instance_uid not in self._wanted or identity.study_instance_uid != self._study:
            writing.abandon()
            self.unwanted += 1
            raise OSError(errno.EINVAL, "not what was asked for")

        def note(stored: Stored) -> None:
            self._journal.append(
                entry_of(
                    stored,
                    identity,
                    calling_ae=self._calling_ae,
                    peer="",
                    association=self._association,
                    received_at=self._now(),
                )
            )

        writing.commit(note)
        self.kept.add(identity.sop_instance_uid)


class _FileDraft:
    def __init__(self, arrivals: FetchedInstances, writing: Writing) -> None:
        self._arrivals = arrivals
        self._writing = writing

    def write(self, data: memoryview) -> None:
        if not self._arrivals.spend(len(data)):
            raise OSError(errno.EDQUOT, "the limit of this retrieval is reached")
        self._writing.write((data,))

    def keep(self, identity: Identity) -> Callable[[], None]:
        self._arrivals.keep(self._writing, identity)
        return lambda: None

    def abandon(self) -> None:
        self._writing.abandon()
