"""Answers storage commitment requests from the index: what Hilum keeps for good, and why not the rest."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from hilum.adapters.sql.database import reading, transaction
from hilum.adapters.sql.tables import commitment_requests, commitments, committed_elsewhere, instances, quarantine
from hilum.adapters.sql.upsert import insert
from hilum.domain.errors import Reject
from hilum.ports.instances import InstanceStore
from hilum.runtime.logs import Log
from hilum_listener.handlers.attributes import (
    CLASS_INSTANCE_CONFLICT,
    NO_SUCH_SOP_INSTANCE,
    PROCESSING_FAILURE,
    Reference,
)
from hilum_listener.settings import AssembleSettings

_LOG = Log("hilum.listener.assemble")
_VARIABLES = 500


@dataclass(frozen=True, slots=True)
class Held:
    """What is known of one instance.

    Attributes:
        sop_class_uid: under which it is indexed; empty when it isn't.
        whole: its file is there, as long as it was when it was synced.
        doubted: the requester also sent other bytes under its UID, which are in quarantine.
        pacs_class_uid: under which the PACS answers for it; empty when it doesn't.
    """

    sop_class_uid: str = ""
    whole: bool = False
    doubted: bool = False
    pacs_class_uid: str = ""


def failure_reason(sop_class_uid: str, held: Held, *, archive: bool) -> int | None:
    """Failure Reason (0008,1197) of one instance asked for (PS3.3 C.14.1.1); None: it is committed.

    A PACS that answers for the object itself is enough; else it must be here and Hilum be an archive.
    """
    if held.pacs_class_uid == sop_class_uid:
        return None
    if not held.sop_class_uid or not held.whole:
        return NO_SUCH_SOP_INSTANCE
    if held.sop_class_uid != sop_class_uid:
        return CLASS_INSTANCE_CONFLICT
    return None if archive and not held.doubted else PROCESSING_FAILURE


class Verdicts:
    """Decides the requests that wait, once everything that was journaled before is folded."""

    def __init__(self, settings: AssembleSettings, store: InstanceStore) -> None:
        self._settings = settings
        self._store = store
        self._waiting = True

    def look_again(self) -> None:
        self._waiting = True

    def decide(self, engine: Engine, now: datetime) -> None:
        """What is committed and what the report says commit together; from then on retention leaves it alone.

        Raises:
            Busy: the database is away. Nothing was decided.
        """
        if not self._waiting:
            return
        waiting = commitment_requests.c.state == "asked"
        with reading(engine) as connection:
            found = connection.execute(sa.select(commitment_requests.c.notice).where(waiting)).first()
        if found is not None:
            with transaction(engine) as connection:
                asked = sa.select(commitment_requests).where(waiting).with_for_update(skip_locked=True)
                for request in connection.execute(asked).all():
                    self._decide(connection, request, now)
        self._waiting = False

    def _decide(self, connection: Connection, request: Any, now: datetime) -> None:
        asked: list[Reference] = [(one[0], one[1]) for one in request.instances]
        held = self._look(connection, [uid for _class, uid in asked], request.calling_ae)
        committed: list[Reference] = []
        failed: list[tuple[str, str, int]] = []
        for sop_class, uid in asked:
            reason = failure_reason(sop_class, held.get(uid, Held()), archive=self._settings.archive)
            if reason is None:
                committed.append((sop_class, uid))
                self._commit(connection, request, sop_class, uid, held[uid], now)
            else:
                failed.append((sop_class, uid, reason))
        connection.execute(
            sa.update(commitment_requests)
            .where(commitment_requests.c.notice == request.notice)
            .values(state="due", due_at=now, report={"committed": committed, "failed": failed})
        )
        _LOG.info("commitment decided", peer=request.calling_ae, count=len(committed), instances=len(asked))

    def _commit(
        self, connection: Connection, request: Any, sop_class: str, uid: str, held: Held, now: datetime
    ) -> None:
        statement = insert(connection, commitments).values(
            sop_instance_uid=uid,
            sop_class_uid=sop_class,
            transaction_uid=request.transaction_uid,
            calling_ae=request.calling_ae,
            basis="pacs" if held.pacs_class_uid == sop_class else "archive",
            committed_at=now,
        )
        connection.execute(statement.on_conflict_do_nothing(index_elements=["sop_instance_uid"]))

    def _look(self, connection: Connection, uids: Sequence[str], calling_ae: str) -> dict[str, Held]:
        held: dict[str, Held] = {}
        for part in _parts(uids):
            indexed = {
                row.sop_instance_uid: row
                for row in connection.execute(sa.select(instances).where(instances.c.sop_instance_uid.in_(part)))
            }
            doubted = set(
                connection.execute(
                    sa.select(quarantine.c.sop_instance_uid).where(
                        quarantine.c.sop_instance_uid.in_(part), quarantine.c.calling_ae == calling_ae
                    )
                ).scalars()
            )
            pacs = self._pacs(connection, part)
            for uid in {*indexed, *pacs}:
                row = indexed.get(uid)
                held[uid] = Held(
                    sop_class_uid=row.sop_class_uid if row is not None else "",
                    whole=row is not None and self._is_whole(row.uri, row.size_bytes),
                    doubted=uid in doubted,
                    pacs_class_uid=pacs.get(uid, ""),
                )
        return held

    def _pacs(self, connection: Connection, uids: Sequence[str]) -> dict[str, str]:
        """The instances that a PACS, one of the configured destinations, reported as committed, with their class."""
        found = connection.execute(
            sa.select(committed_elsewhere.c.sop_instance_uid, committed_elsewhere.c.sop_class_uid).where(
                committed_elsewhere.c.sop_instance_uid.in_(uids),
                committed_elsewhere.c.failure_reason.is_(None),
                committed_elsewhere.c.calling_ae.in_(sorted(self._settings.pacs_ae_titles)),
            )
        )
        return {row.sop_instance_uid: row.sop_class_uid for row in found}

    def _is_whole(self, uri: str, size_bytes: int) -> bool:
        try:
            return self._store.exists(uri, size_bytes=size_bytes)
        except (Reject, OSError):
            return False


def _parts(uids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(uids), _VARIABLES):
        yield uids[start : start + _VARIABLES]
