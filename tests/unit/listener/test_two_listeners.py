"""Two listeners of a cluster, each with a spool of its own, fold into one PostgreSQL."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.folder import SCHEME, SHARED, FolderInstances
from hilum.adapters.instances import Instances
from hilum.adapters.sql.database import transaction
from hilum.adapters.sql.eventlog import SqlPublisher
from hilum.adapters.sql.tables import instances, journal_positions, removals, revisions
from hilum.testing.clock import SetClock
from hilum.testing.postgresql import Database
from hilum_listener.handlers.assemble import Assembler
from hilum_listener.handlers.journal import JournalWriter
from hilum_listener.handlers.spool_name import is_of_spool, spool_name
from hilum_listener.handlers.store_removals import StoreRemovals
from hilum_listener.handlers.uploads import Uploads
from hilum_listener.settings import Places
from hilum_listener.testing import QUIET, START, Listener, stored_files


class Member(Listener):
    """A listener whose instances go to a folder that all of them share."""

    def __init__(self, data: Path, shared: Path, engine: Engine, clock: SetClock, own_clock: SetClock) -> None:
        self.own_clock = own_clock
        places = Places(data)
        spool = FolderInstances(places.spool)
        store = Instances({SCHEME: spool, SHARED: FolderInstances(shared, scheme=SHARED)}, target=SHARED)
        self.store, self.uploads = store, Uploads(spool, store, engine, clock)
        super().__init__(places, engine, clock)
        self.journal = JournalWriter(places.journal, started_at=own_clock.now(), spool=spool_name(places.spool))

    def new_assembler(self) -> Assembler:
        return Assembler(
            self.places,
            self.settings,
            self.engine,
            SqlPublisher(self.clock),
            self.clock,
            store=self.store,
            uploads=self.uploads,
            journal_clock=self.own_clock,
        )

    def work(self, *, after: timedelta = timedelta(0)) -> None:
        self.step(after=after)
        while self.uploads.step():
            pass
        self.assembler._tidier.step()
        StoreRemovals(self.store, self.engine, self.clock).step()


@pytest.fixture
def pair(tmp_path: Path, postgresql_database: Database) -> Iterator[tuple[Member, Member]]:
    engine, clock = postgresql_database.open(), SetClock(START)
    yield (
        Member(tmp_path / "a", tmp_path / "shared", engine, clock, clock),
        Member(tmp_path / "b", tmp_path / "shared", engine, clock, clock),
    )
    engine.dispose()


def test_images_that_came_over_two_listeners_make_one_revision_when_all_are_where_workers_read(
    pair: tuple[Member, Member],
) -> None:
    a, b = pair
    a.image(name="one")
    b.image(name="two")
    a.step()  # in the index, and not yet uploaded
    b.step()
    a.step(after=QUIET)
    b.step()
    assert a.rows(revisions) == []
    a.work()
    a.work(after=timedelta(seconds=2))
    assert a.rows(revisions) == [], "the other listener's image is still in its spool"
    for member in (b, a, b):
        member.work(after=timedelta(seconds=2))
    assert [(row.revision, row.instance_count) for row in a.rows(revisions)] == [(1, 2)]
    assert {row.uri.split(":")[0] for row in a.rows(instances)} == {"shared"}
    (ready,) = a.ready()
    assert len([image for series in ready.series for image in series.instances]) == 2


def test_a_study_whose_listener_is_gone_is_completed_by_another(pair: tuple[Member, Member]) -> None:
    a, b = pair
    a.image()
    a.work()
    for _ in range(3):
        b.work(after=QUIET)
    assert len(b.rows(revisions)) == 1


def test_a_listener_removes_what_is_in_its_own_spool_and_leaves_the_others(pair: tuple[Member, Member]) -> None:
    a, b = pair
    a.image()
    a.step()
    while a.uploads.step():
        pass
    b.work()
    b.work(after=timedelta(seconds=2))
    assert len(a.rows(removals)) == 1
    assert len(stored_files(a.places.spool)) == 1
    a.work(after=timedelta(seconds=2))
    assert a.rows(removals) == []
    assert stored_files(a.places.spool) == []


def test_an_expired_instance_of_the_store_is_removed_by_whoever_comes_first(pair: tuple[Member, Member]) -> None:
    a, b = pair
    a.image()
    a.work()
    (uri,) = (row.uri for row in a.rows(instances))
    with transaction(a.engine) as connection:
        connection.execute(sa.insert(removals).values(uri=uri, reason="old", noted_at=a.clock.now()))
    b.image(study="other")  # so that it has a journal
    b.work(after=timedelta(seconds=2))
    assert uri not in {row.uri for row in b.rows(removals)}
    assert not b.store.exists(uri)


def test_old_positions_of_another_listener_stay_however_old_they_are(pair: tuple[Member, Member]) -> None:
    a, b = pair
    a.image()
    b.image(study="other")
    a.work()
    b.work()
    b.work(after=timedelta(days=30))
    names = {row.journal for row in b.rows(journal_positions)}
    assert any(is_of_spool(name, spool_name(a.places.spool)) for name in names)


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_listener_whose_clock_is_minutes_off_waits_as_long_as_the_others(
    tmp_path: Path, postgresql_database: Database, minutes: int
) -> None:
    engine, clock = postgresql_database.open(), SetClock(START)
    own = SetClock(START + timedelta(minutes=minutes))
    member = Member(tmp_path / "a", tmp_path / "shared", engine, clock, own)
    member.journal.append = _at(member.journal.append, own)  # type: ignore[method-assign, assignment]
    member.image()
    member.work()
    member.work(after=QUIET - timedelta(seconds=1))
    assert member.rows(revisions) == []
    member.work(after=timedelta(seconds=1))
    assert len(member.rows(revisions)) == 1
    engine.dispose()


def _at(append: object, clock: SetClock) -> object:
    """The receiving process stamps by its own machine's clock."""
    from dataclasses import replace

    from hilum_listener.handlers.journal import AssociationChanged

    def stamped(entry: object, *, sync: bool = True) -> None:
        if not isinstance(entry, AssociationChanged):
            entry = replace(entry, received_at=clock.now())  # type: ignore[type-var]
        append(entry, sync=sync)  # type: ignore[operator]

    return stamped


def test_the_name_of_a_spool_stays_and_no_other_has_it(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    assert spool_name(first) == spool_name(first)
    assert spool_name(first) != spool_name(second)
    (second / "name").write_text("../x")
    with pytest.raises(OSError, match="damaged"):
        spool_name(second)
