"""How full the disk is, and whether what may go has to go earlier for it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.folder import SCHEME
from hilum.adapters.sql.database import reading
from hilum.adapters.sql.tables import instances, removals
from hilum.runtime.cluster import Cluster
from hilum.runtime.config import Retention
from hilum.runtime.logs import Log
from hilum_listener.settings import Places

_LOG = Log("hilum.listener.retention")
_LOOK_EACH = timedelta(seconds=10)
_SUM_EACH = timedelta(minutes=10)
_SAY_EACH = timedelta(hours=1)
OLD_ENOUGH = "its study is old enough"


@dataclass(frozen=True, slots=True)
class Level:
    """`used` of `size` bytes; `size` is what may be used at all."""

    used: int
    size: int

    @property
    def percent(self) -> float:
        return 100 * self.used / max(self.size, 1)


Gauge = Callable[[datetime], Level | None]
"""None where it can't be told now, such as a volume that isn't mounted."""


class Watermarks:
    """Presses from the high watermark on, until what was let go brings the level to the low one.

    Files go some time after their rows, so what was let go is counted, and the level is read again when nothing that
    was put down is left.

    Args:
        spool, store: how full each is; the same on one machine.
        removing: whether files that were put down are still in the store.
    """

    def __init__(self, retention: Retention, *, spool: Gauge, store: Gauge, removing: Callable[[], bool]) -> None:
        self._retention = retention
        self._spool, self._store = spool, store
        self._removing = removing
        self._owed = 0
        self._percent = 0.0
        self._spool_pressed = False
        self._look_at: datetime | None = None
        self._say_at: datetime | None = None

    def look(self, now: datetime) -> bool:
        """Reads the levels when it is time to; True when the pressing begins.

        Raises:
            Busy: the database is away.
        """
        high = self._retention.high_watermark
        if high is None or (self._look_at is not None and now < self._look_at):
            return False
        self._look_at = now + _LOOK_EACH
        spool = self._spool(now)
        self._spool_pressed = spool is not None and spool.percent >= high
        if self.pressed or self._removing():
            return False
        level = self._store(now)
        if level is None or level.percent < high:
            return False
        self._percent = level.percent
        self._owed = level.used - int(level.size * self._retention.low_watermark / 100)
        _LOG.warning("the instances' disk fills", reason=self.reason, bytes=self._owed)
        return True

    @property
    def pressed(self) -> bool:
        """Studies go at `pressed_study_days`."""
        return self._owed > 0

    @property
    def spool_pressed(self) -> bool:
        """Files that were put down are to go as fast as they can."""
        return self._spool_pressed

    @property
    def study_days(self) -> float | None:
        """From which age on images may go now; None: at none."""
        days, pressed = self._retention.study_days, self._retention.pressed_study_days
        if not self.pressed:
            return days
        return pressed if days is None else min(days, pressed)

    @property
    def reason(self) -> str:
        return f"the instances' disk is {self._percent:.0f} % full" if self.pressed else OLD_ENOUGH

    def freed(self, size_bytes: int) -> None:
        """So much was put down."""
        self._owed = max(self._owed - size_bytes, 0)

    def nothing_left(self, now: datetime) -> None:
        """All that may go is put down: the level is read again later, and people hear of it."""
        if self.pressed and (self._say_at is None or now >= self._say_at):
            self._say_at = now + _SAY_EACH
            _LOG.error("the instances' disk is full of what must stay", reason="not ended, waited for, promised or new")
        self._owed = 0


def watermarks_of(retention: Retention, places: Places, engine: Engine, cluster: Cluster | None) -> Watermarks:
    """Of the spool's disk on one machine; of the shared folder's or of the bucket in a cluster."""
    spool: Gauge = partial(_disk, places.spool)
    in_spool = removals.c.uri.like(f"{SCHEME}%")
    if cluster is None:
        store, of_store = spool, in_spool
    elif cluster.instances_kind == "folder":
        store, of_store = partial(_disk, Path(cluster.instances)), sa.not_(in_spool)
    else:
        store, of_store = _Bucket(engine, retention.store_limit_gb).level, sa.not_(in_spool)

    def removing() -> bool:
        with reading(engine) as connection:
            return connection.execute(sa.select(removals.c.uri).where(of_store).limit(1)).first() is not None

    return Watermarks(retention, spool=spool, store=store, removing=removing)


def _disk(folder: Path, _now: datetime) -> Level | None:
    try:
        space = os.statvfs(folder)
    except OSError:
        return None
    used = (space.f_blocks - space.f_bfree) * space.f_frsize
    return Level(used, used + space.f_bavail * space.f_frsize)  # without what only root may use


class _Bucket:
    """What the index says that a bucket holds, since a bucket doesn't tell; summed up rarely, over all instances."""

    def __init__(self, engine: Engine, limit_gb: float | None) -> None:
        self._engine = engine
        self._limit = None if limit_gb is None else int(limit_gb * 1e9)
        self._known: Level | None = None
        self._sum_at: datetime | None = None

    def level(self, now: datetime) -> Level | None:
        if self._limit is None:
            return None
        if self._sum_at is None or now >= self._sum_at:
            self._sum_at = now + _SUM_EACH
            published = sa.not_(instances.c.uri.like(f"{SCHEME}%"))
            with reading(self._engine) as connection:
                used = connection.execute(sa.select(sa.func.sum(instances.c.size_bytes)).where(published)).scalar()
            self._known = Level(int(used or 0), self._limit)
        return self._known
