"""What the index put down goes from the store, whatever is away meanwhile, and never from under an upload."""

import hashlib
import os
import threading
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.folder import SHARED, FolderInstances
from hilum.adapters.sql.database import reading, transaction
from hilum.adapters.sql.tables import removals
from hilum.domain.errors import Busy
from hilum.testing.clock import SetClock
from hilum.testing.postgresql import Database
from hilum_listener.handlers.store_removals import StoreRemovals
from hilum_listener.handlers.uploads import _take_back
from hilum_listener.testing import START


class Gated(FolderInstances):
    """Can be away, and can be held while it deletes."""

    away = False

    def __init__(self, root: Path) -> None:
        super().__init__(root, scheme=SHARED)
        self.deleting, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def delete(self, uri: str) -> None:
        if self.away:
            raise Busy("the store is away")
        self.deleting.set()
        self.go_on.wait()
        super().delete(uri)


@pytest.fixture
def store(tmp_path: Path) -> Gated:
    return Gated(tmp_path / "mount")


def put(store: Gated, folder: Path, name: str) -> str:
    file = folder / "received"
    file.write_text(name)
    digest = hashlib.sha256(name.encode()).hexdigest()
    return store.publish(file, sop_instance_uid=name, sha256=digest)


def put_down(engine: Engine, *uris: str) -> None:
    with transaction(engine) as connection:
        for uri in uris:
            connection.execute(sa.insert(removals).values(uri=uri, reason="old", noted_at=START))


def noted(engine: Engine) -> set[str]:
    with reading(engine) as connection:
        return set(connection.execute(sa.select(removals.c.uri)).scalars())


def test_objects_go_and_then_their_rows_and_the_spools_stay(engine: Engine, store: Gated, tmp_path: Path) -> None:
    uris = [put(store, tmp_path, f"image {number}") for number in range(40)]
    put_down(engine, *uris, "spool:ab/00-11.dcm", f"{SHARED}not a key")
    steps = StoreRemovals(store, engine, SetClock(START))
    while steps.step():
        pass
    assert noted(engine) == {"spool:ab/00-11.dcm"}
    assert not any(store.exists(uri) for uri in uris)


def test_while_the_store_is_away_nothing_is_forgotten(engine: Engine, store: Gated, tmp_path: Path) -> None:
    uri = put(store, tmp_path, "image")
    put_down(engine, uri)
    store.away = True
    with pytest.raises(Busy):
        StoreRemovals(store, engine, SetClock(START)).step()
    assert noted(engine) == {uri}
    store.away = False
    assert StoreRemovals(store, engine, SetClock(START)).step() == 1
    assert noted(engine) == set()


def test_an_upload_of_what_is_just_being_removed_waits_and_then_finds_it_gone(
    postgresql_database: Database, store: Gated, tmp_path: Path
) -> None:
    engine = postgresql_database.open()
    uri = put(store, tmp_path, "image")
    put_down(engine, uri)
    store.go_on.clear()
    remover = threading.Thread(target=StoreRemovals(store, engine, SetClock(START)).step)
    remover.start()
    assert store.deleting.wait(10)
    found: list[bool] = []

    def upload() -> None:
        with transaction(engine) as connection:
            _take_back(connection, [uri])
        found.append(store.exists(uri))

    uploader = threading.Thread(target=upload)
    uploader.start()
    uploader.join(0.5)
    assert uploader.is_alive()
    store.go_on.set()
    uploader.join()
    remover.join()
    assert found == [False]
    engine.dispose()


def test_what_an_upload_took_back_is_not_removed(engine: Engine, store: Gated, tmp_path: Path) -> None:
    uri = put(store, tmp_path, "image")
    put_down(engine, uri)
    with transaction(engine) as connection:
        _take_back(connection, [uri])
    assert StoreRemovals(store, engine, SetClock(START)).step() == 0
    assert store.exists(uri)


def test_several_listeners_remove_side_by_side(postgresql_database: Database, store: Gated, tmp_path: Path) -> None:
    engine = postgresql_database.open()
    uris = [put(store, tmp_path, f"image {number}") for number in range(60)]
    put_down(engine, *uris)
    store.go_on.clear()
    first = threading.Thread(target=StoreRemovals(store, engine, SetClock(START)).step)
    first.start()
    assert store.deleting.wait(10)
    store.go_on.set()
    assert StoreRemovals(store, engine, SetClock(START)).step() <= 32
    first.join()
    while StoreRemovals(store, engine, SetClock(START)).step():
        pass
    assert noted(engine) == set()
    assert not any(store.exists(uri) for uri in uris)
    engine.dispose()


def test_what_killed_uploads_left_goes_after_a_day(engine: Engine, store: Gated, tmp_path: Path) -> None:
    put(store, tmp_path, "image")
    (folder,) = (tmp_path / "mount").iterdir()
    half = folder / ".0123456789abcdef-00.part"
    half.write_text("half")
    os.utime(half, (START.timestamp(),) * 2)
    clock = SetClock(START)
    removals_of = StoreRemovals(store, engine, clock)
    removals_of.clear()
    assert half.exists()
    clock.advance(timedelta(hours=25))
    removals_of.clear()
    assert not half.exists()
    assert len(list(folder.iterdir())) == 1
