"""A study is ready when workers can read all of it: instances go from the spool to the store, once and for all."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from hilum.adapters.folder import SCHEME, SHARED, FolderInstances
from hilum.adapters.instances import Instances
from hilum.adapters.sql.database import reading
from hilum.adapters.sql.eventlog import SqlPublisher
from hilum.adapters.sql.tables import instances, removals
from hilum.domain.errors import Busy
from hilum.ports.instances import InstanceStore
from hilum_listener.handlers.assemble import Assembler
from hilum_listener.handlers.uploads import Uploads
from hilum_listener.testing import QUIET, Listener, encoded_dataset


class Away:
    """A store that can be away, and that counts what it is asked to take."""

    def __init__(self, store: InstanceStore) -> None:
        self._store = store
        self.away = False
        self.taken: list[str] = []

    def uri_of(self, *, sop_instance_uid: str, sha256: str) -> str:
        return self._store.uri_of(sop_instance_uid=sop_instance_uid, sha256=sha256)

    def publish(self, file: Path, *, sop_instance_uid: str, sha256: str) -> str:
        if self.away:
            raise Busy("the store is away")
        self.taken.append(sop_instance_uid)
        return self._store.publish(file, sop_instance_uid=sop_instance_uid, sha256=sha256)

    def path(self, uri: str) -> Path:
        return self._store.path(uri)

    def exists(self, uri: str, *, size_bytes: int | None = None) -> bool:
        return self._store.exists(uri, size_bytes=size_bytes)

    def clear_unfinished(self, *, before: datetime) -> int:
        return self._store.clear_unfinished(before=before)

    def delete(self, uri: str) -> None:
        self._store.delete(uri)


@pytest.fixture
def shared(tmp_path: Path) -> Away:
    return Away(FolderInstances(tmp_path / "mount", scheme=SHARED))


Begin = Callable[[], Uploads]


@pytest.fixture
def begin(listener: Listener, shared: Away) -> Begin:
    """A new assembler of the listener that uploads to the store, as after a restart."""

    def start() -> Uploads:
        spool = FolderInstances(listener.places.spool)
        uploads = Uploads(spool, shared, listener.engine, listener.clock)
        store = Instances({SCHEME: spool, SHARED: shared}, target=SHARED)
        publisher = SqlPublisher(listener.clock)
        listener.assembler = Assembler(
            listener.places, listener.settings, listener.engine, publisher, listener.clock, store=store, uploads=uploads
        )
        return uploads

    return start


def uris(listener: Listener) -> list[str]:
    return [row.uri for row in listener.rows(instances)]


def test_a_study_is_ready_when_its_instances_are_where_workers_read(
    listener: Listener, begin: Begin, shared: Away
) -> None:
    uploads = begin()
    listener.image(name="one")
    listener.image(name="two")
    listener.step()
    listener.step(after=QUIET)
    assert listener.ready() == []
    assert uploads.step() == 2
    listener.step(after=timedelta(seconds=1))
    (ready,) = listener.ready()
    named = [instance.uri for of in ready.series for instance in of.instances]
    assert sorted(named) == sorted(uris(listener))
    for uri in named:
        assert uri.startswith(SHARED)
        assert encoded_dataset(shared.path(uri))


def test_the_file_in_the_spool_is_put_down_for_removal_only_with_the_row_that_names_the_store(
    listener: Listener, begin: Begin
) -> None:
    uploads = begin()
    listener.image()
    listener.step()
    (before,) = uris(listener)
    assert listener.rows(removals) == []
    assert FolderInstances(listener.places.spool).path(before)
    uploads.step()
    (after,) = uris(listener)
    assert [row.uri for row in listener.rows(removals)] == [before]
    assert after != before


def test_while_the_store_is_away_studies_go_on_arriving_and_become_ready_when_it_is_back(
    listener: Listener, begin: Begin, shared: Away
) -> None:
    uploads = begin()
    shared.away = True
    listener.image()
    listener.step()
    with pytest.raises(Busy):
        uploads.step()
    listener.image("another study", "other")
    listener.step(after=QUIET)
    listener.step(after=QUIET)
    assert len(uris(listener)) == 2
    assert listener.ready() == []
    shared.away = False
    while uploads.step():
        pass
    listener.step(after=timedelta(seconds=2))
    assert len(listener.ready()) == 2


def test_killed_before_the_row_is_written_the_upload_is_done_again_and_changes_nothing(
    listener: Listener, begin: Begin, shared: Away
) -> None:
    begin()
    listener.image()
    listener.step()
    (row,) = listener.rows(instances)
    file = FolderInstances(listener.places.spool).path(row.uri)
    first = shared.publish(file, sop_instance_uid=row.sop_instance_uid, sha256=row.sha256)  # and then it was killed
    uploads = begin()
    listener.step()
    assert uploads.step() == 1
    assert uris(listener) == [first]
    listener.step(after=QUIET)
    assert len(listener.ready()) == 1


def test_what_another_listener_received_is_waited_for(listener: Listener, begin: Begin) -> None:
    uploads = begin()
    listener.image(name="here")
    listener.image(name="there")
    listener.step()
    row = listener.rows(instances)[0]
    hidden = FolderInstances(listener.places.spool).path(row.uri)
    elsewhere = hidden.rename(hidden.with_suffix(".elsewhere"))
    uploads.step()
    listener.step(after=QUIET)
    listener.step(after=timedelta(minutes=1))
    assert listener.ready() == []
    elsewhere.rename(hidden)  # in a test there is one spool; its upload stands for the other listener's
    listener.step(after=timedelta(seconds=1))
    uploads.step()
    listener.step(after=timedelta(seconds=2))
    assert len(listener.ready()) == 1


def test_an_instance_that_no_one_has_any_more_does_not_hold_its_study_for_ever(
    listener: Listener, begin: Begin
) -> None:
    uploads = begin()
    listener.image(name="here")
    listener.image(name="lost")
    listener.step()
    FolderInstances(listener.places.spool).path(listener.rows(instances)[1].uri).unlink()
    uploads.step()
    listener.step(after=QUIET)
    assert listener.ready() == []
    listener.step(after=timedelta(minutes=11))
    listener.step(after=timedelta(seconds=2))
    assert len(listener.ready()) == 1


def test_a_file_that_was_damaged_in_the_spool_is_never_published_and_the_study_goes_on(
    listener: Listener, begin: Begin
) -> None:
    uploads = begin()
    listener.image(name="good")
    listener.image(name="damaged")
    listener.step()
    path = FolderInstances(listener.places.spool).path(listener.rows(instances)[1].uri)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    uploads.step()
    listener.step(after=QUIET)
    listener.step(after=timedelta(seconds=1))
    assert len(listener.ready()) == 1
    assert sorted(uri.partition(":")[0] for uri in uris(listener)) == ["shared", "spool"]


def test_the_same_image_again_is_compared_with_the_one_in_the_store(listener: Listener, begin: Begin) -> None:
    uploads = begin()
    listener.image()
    listener.step()
    uploads.step()
    listener.image()
    listener.step()
    assert len(uris(listener)) == 1
    assert len(listener.rows(removals)) == 2  # both files of the spool


def test_after_a_restart_what_is_left_is_found_in_the_index(listener: Listener, begin: Begin) -> None:
    begin()
    listener.image()
    listener.step()
    uploads = begin()
    with reading(listener.engine) as connection:
        uploads.load(connection)
    assert uploads.step() == 1
