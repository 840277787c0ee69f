"""Brings named instances of one study from one archive, and sees that the index has them."""

import itertools
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from hilum.adapters.sql.database import reading, transaction
from hilum.domain.errors import Busy, HilumError, Reject, Retry
from hilum.ports.clock import Clock
from hilum_listener.handlers import retrieval
from hilum_listener.handlers.archive import Archive, Held
from hilum_listener.handlers.arrivals import FetchedInstances
from hilum_listener.handlers.fetch_plan import indexed, quarantined
from hilum_listener.handlers.journal import JournalWriter
from hilum_listener.handlers.priors import FETCHED_MISSING, FETCHED_PRIOR
from hilum_listener.handlers.retrieval import Claimed, Kind
from hilum_listener.handlers.spool import Spool
from hilum_listener.settings import FetchSettings

_FOLD_S, _FOLD_LOOK_S = 15.0, 0.1
"""So long without progress the index is given to show what came."""


@dataclass(frozen=True, slots=True)
class Source:
    """An archive that may be retrieved from. `calling_ae` is what its instances are received from in the index;
    `sender_ae` who sends what C-MOVE asks for, empty when Hilum fetches itself."""

    name: str
    archive: Archive
    calling_ae: str
    sender_ae: str = ""


class Lost(Exception):
    """Another process has claimed the retrieval meanwhile."""


class Short(Retry):
    """Some came, not all."""

    def __init__(self, reason: str, came: int) -> None:
        super().__init__(reason)
        self.came = came


class Bringer:
    """`pause` waits some seconds while others work; true when the process is to stop."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        settings: FetchSettings,
        spool: Spool,
        journal: JournalWriter,
        pause: Callable[[float], bool],
        *,
        journal_clock: Clock | None = None,
    ) -> None:
        """`journal_clock`: by which the journal's times are, where that isn't `clock`."""
        self._journal_clock = journal_clock or clock
        self._engine = engine
        self._clock = clock
        self._settings = settings
        self._spool = spool
        self._journal = journal
        self._pause = pause
        self._numbers = itertools.count(1)
        self._run = secrets.token_hex(8)

    def bring(self, claimed: Claimed, source: Source, wanted: Sequence[Held]) -> int:
        """Fetches these and returns when the index has them all; the number.

        Raises:
            Short: it has not all of them. Retry, Reject: the archive says so.
        """
        uids = [item.sop_instance_uid for item in wanted]
        with transaction(self._engine) as connection:
            if not retrieval.will_ask_for(connection, claimed, uids, sender_ae=source.sender_ae):
                raise Lost
        arrivals = self._arrivals(claimed, source, frozenset(uids))
        ended, trouble = "aborted", None
        arrivals.note("opened")
        moved = len(uids) if source.sender_ae else 0
        try:
            outcome = source.archive.fetch(claimed.target, wanted, arrivals)
            ended, moved = "released", min(moved, outcome.completed)
        except HilumError as error:
            trouble = error
        finally:
            arrivals.note(ended)
        came = self._wait_for_index(claimed, uids, awaited=max(moved, len(arrivals.kept)))
        if arrivals.lost:
            raise Lost
        if arrivals.over_limit:
            raise Reject(f"archive {source.name}: more than {self._settings.max_bytes // 1_000_000} MB for one study")
        if came == len(wanted):
            return came
        if trouble is not None and not came:
            raise trouble
        words = f"archive {source.name}: it sent {came} of {len(wanted)} images"
        if arrivals.unwanted:
            words += f", and {arrivals.unwanted} that were not asked for"
        raise Short(f"{words} ({trouble.reason})" if trouble else words, came)

    def _arrivals(self, claimed: Claimed, source: Source, wanted: frozenset[str]) -> FetchedInstances:
        prefix = FETCHED_PRIOR if claimed.kind is Kind.PRIOR else FETCHED_MISSING
        return FetchedInstances(
            self._spool,
            self._journal,
            self._journal_clock.now,
            study_instance_uid=claimed.target,
            wanted=wanted,
            limit_bytes=self._settings.max_bytes,
            calling_ae=source.calling_ae,
            association=f"{prefix}{self._run}-{next(self._numbers)}",
            alive=Alive(self._engine, self._clock, claimed, self._settings),
        )

    def _wait_for_index(self, claimed: Claimed, uids: Sequence[str], *, awaited: int) -> int:
        """How many of them the index has, as soon as it has all that came, or makes no progress any more."""
        alive = Alive(self._engine, self._clock, claimed, self._settings)
        before, quiet_s = -1, 0.0
        while True:
            with reading(self._engine) as connection:
                here = len(indexed(connection, claimed.target) & set(uids))
                settled = here + len(quarantined(connection, uids))
            if settled >= awaited or quiet_s >= _FOLD_S:
                return here
            quiet_s = 0.0 if settled != before else quiet_s + _FOLD_LOOK_S
            before = settled
            if self._pause(_FOLD_LOOK_S) or not alive():
                raise Lost


class Alive:
    """Renews the lease when a third of it is over; false once another process has claimed the retrieval."""

    def __init__(self, engine: Engine, clock: Clock, claimed: Claimed, settings: FetchSettings) -> None:
        self._engine = engine
        self._clock = clock
        self._claimed = claimed
        self._lease = settings.lease
        self._renew_at = clock.now() + settings.lease / 3

    def __call__(self) -> bool:
        now = self._clock.now()
        if now < self._renew_at:
            return True
        self._renew_at = now + self._lease / 3
        try:
            with transaction(self._engine) as connection:
                return retrieval.renew(connection, self._claimed, until=now + self._lease)
        except Busy:
            return True
