"""A disk that fills: what may go goes earlier, the oldest first, as much as is needed, and it is said."""

import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from hilum.adapters.sql.database import transaction
from hilum.adapters.sql.tables import deliveries, expirations, instances, outcomes, studies
from hilum.domain.identity import derive_uid
from hilum.runtime.config import ConfigError, Retention, parse
from hilum_listener.handlers.tidy import Tidier
from hilum_listener.handlers.watermarks import Level, Watermarks, watermarks_of
from hilum_listener.testing import QUIET, Listener

DAY = timedelta(days=1)


class Disk:
    """Filled by what is in the index and `other` bytes; `size` bytes large."""

    def __init__(self, listener: Listener, size: int = 0, other: int = 0) -> None:
        self.listener, self.size, self.other = listener, size, other
        self.away = False

    @property
    def held(self) -> int:
        return sum(row.size_bytes for row in self.listener.rows(instances))

    def level(self, _now: Any) -> Level | None:
        return None if self.away else Level(self.held + self.other, self.size)


def old_studies(listener: Listener, count: int) -> list[str]:
    """Ended ones, a day between any two, the oldest first; the last one is from today. Their UIDs."""
    for number in range(count):
        listener.clock.advance(DAY)
        listener.image(f"study {number}", f"image {number}")
        listener.step()
        listener.step(after=QUIET)
    uids = [derive_uid("test-study", f"study {number}") for number in range(count)]
    with transaction(listener.engine) as connection:
        for uid in uids:
            ended = {"study_instance_uid": uid, "revision": 1, "state": "negative", "reason": ""}
            connection.execute(sa.insert(outcomes).values(**ended, ended_at=listener.clock.now()))
    return uids


def tidier(listener: Listener, disk: Disk, **retention: Any) -> Tidier:
    kept = Retention(**{"high_watermark": 80, "low_watermark": 50, **retention})
    watermarks = Watermarks(kept, spool=lambda _now: None, store=disk.level, removing=lambda: False)
    settings = replace(listener.settings, retention=kept)
    assembler = listener.new_assembler()
    assembler.step()
    assembler.step()
    return Tidier(listener.places, settings, listener.engine, listener.clock, assembler._tail, watermarks=watermarks)


def run(listener: Listener, of: Tidier, *, steps: int = 15) -> None:
    for _ in range(steps):
        of.step()
        listener.clock.advance(timedelta(seconds=1))


def left(listener: Listener) -> set[str]:
    return {row.study_instance_uid for row in listener.rows(instances)}


def test_above_the_high_watermark_the_oldest_go_until_the_low_one(listener: Listener) -> None:
    uids = old_studies(listener, 10)
    disk = Disk(listener)
    disk.size = disk.held  # 100 % full; 50 % is five studies
    run(listener, tidier(listener, disk))
    assert left(listener) == set(uids[5:])
    rows = listener.rows(expirations)
    assert {row.study_instance_uid for row in rows} == set(uids[:5])
    assert {(row.instance_count, row.reason) for row in rows} == {(1, "the instances' disk is 100 % full")}
    assert sum(row.size_bytes for row in rows) == disk.size - disk.held


def test_below_the_high_watermark_nothing_goes_before_its_age(listener: Listener) -> None:
    uids = old_studies(listener, 4)
    disk = Disk(listener)
    disk.size = int(disk.held / 0.79)
    run(listener, tidier(listener, disk, study_days=400))
    assert left(listener) == set(uids)


def test_what_is_too_new_or_waited_for_stays_however_full_the_disk_is(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    uids = old_studies(listener, 6)
    with transaction(listener.engine) as connection:
        of = {"study_instance_uid": uids[0], "revision": 1, "result_key": "k", "destination": "pacs", "format": "sr"}
        times = {"due_at": listener.clock.now(), "created_at": listener.clock.now()}
        connection.execute(
            sa.insert(deliveries).values(**of, **times, state="parked", attempts=1, token=1, reason="refused")
        )
        connection.execute(sa.delete(outcomes).where(outcomes.c.study_instance_uid == uids[1]))
    disk = Disk(listener)
    disk.size = disk.held
    with caplog.at_level(logging.INFO, logger="hilum"):
        run(listener, tidier(listener, disk, low_watermark=1, pressed_study_days=2.5))
    assert left(listener) == {uids[0], uids[1], *uids[3:]}
    said = [record.getMessage() for record in caplog.records]
    assert said.count("the instances' disk is full of what must stay") == 1
    assert "images of old studies removed" in said


def test_without_a_watermark_the_disk_may_fill(listener: Listener) -> None:
    uids = old_studies(listener, 3)
    disk = Disk(listener)
    disk.size = disk.held
    run(listener, tidier(listener, disk, high_watermark=None))
    assert left(listener) == set(uids)


def test_a_disk_that_does_not_answer_presses_nobody(listener: Listener) -> None:
    uids = old_studies(listener, 3)
    disk = Disk(listener)
    disk.away = True
    run(listener, tidier(listener, disk))
    assert left(listener) == set(uids)


def test_while_files_are_still_being_removed_the_level_says_nothing(listener: Listener) -> None:
    level = Level(90, 100)
    removing = [True]
    now = listener.clock.now()
    marks = Watermarks(
        Retention(high_watermark=80), spool=lambda _now: level, store=lambda _now: level, removing=lambda: removing[0]
    )
    assert not marks.look(now)
    assert marks.spool_pressed
    removing[0] = False
    assert not marks.look(now + timedelta(seconds=1))  # not yet time to
    assert marks.look(now + timedelta(seconds=11))
    assert marks.pressed
    assert (marks.study_days, marks.reason) == (1.0, "the instances' disk is 90 % full")
    marks.freed(15)
    assert not marks.pressed
    assert marks.study_days is None


def test_the_real_disk_says_how_full_it_is(listener: Listener) -> None:
    assert not watermarks_of(Retention(high_watermark=100), listener.places, listener.engine, None).look(
        listener.clock.now()
    )
    full = Retention(high_watermark=0.000001, low_watermark=0.0000005)
    assert watermarks_of(full, listener.places, listener.engine, None).look(listener.clock.now())


def test_the_oldest_of_many_studies_go_first(listener: Listener) -> None:
    """More than are looked at in one go, half of them not to be removed."""
    uids = old_studies(listener, 3)
    newest = listener.rows(studies)[-1]
    with transaction(listener.engine) as connection:
        for number in range(250):
            uid = f"1.2.{number}"
            values = {**newest._mapping, "study_instance_uid": uid, "study_key": uid}
            values["last_received_at"] = newest.last_received_at - 9 * DAY
            connection.execute(sa.insert(studies).values(**values))
    disk = Disk(listener)
    disk.size = disk.held
    run(listener, tidier(listener, disk, low_watermark=60, pressed_study_days=0.5))
    assert left(listener) == set(uids[2:])


def test_a_low_watermark_above_the_high_one_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="low_watermark must be below"):
        parse("[retention]\nhigh_watermark = 50.0\n")
