"""A file of the spool is whole and synced, or not there."""

import errno
import os
import threading
from pathlib import Path

import pytest

from hilum.adapters.folder import FolderInstances
from hilum_listener.handlers.journal import NotJournaled
from hilum_listener.handlers.spool import Spool, SpoolFull
from hilum_listener.settings import Places
from hilum_listener.testing import stored_files


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


@pytest.fixture
def spool(places: Places) -> Spool:
    return Spool(places, min_free_bytes=0)


def left(places: Places) -> list[Path]:
    return [*places.incoming.iterdir(), *stored_files(places.spool)]


def is_folder_of_files(fd: int) -> bool:
    return len(Path(os.readlink(f"/proc/self/fd/{fd}")).name) == 2


def test_what_is_written_in_pieces_is_one_file_under_its_uri(spool: Spool, places: Places) -> None:
    writing = spool.begin()
    pieces = [bytes([n % 251]) * (n % 7) for n in range(3000)]
    writing.write(pieces[:2500])
    writing.write([memoryview(piece) for piece in pieces[2500:]])
    writing.write([])
    stored = writing.commit()
    assert stored.size == writing.size == sum(map(len, pieces))
    assert FolderInstances(places.spool).path(stored.uri).read_bytes() == b"".join(pieces)
    assert list(places.incoming.iterdir()) == []


def test_a_write_that_the_system_takes_in_small_pieces_is_whole(
    spool: Spool, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, buffers: real(fd, [memoryview(b"".join(buffers))[:7]]))
    stored = spool.store([b"abc", b"", b"defghijklmnop", bytes(30), b"end"])
    assert FolderInstances(places.spool).path(stored.uri).read_bytes() == b"abcdefghijklmnop" + bytes(30) + b"end"


def test_an_abandoned_file_leaves_nothing_and_abandoning_twice_is_fine(spool: Spool, places: Places) -> None:
    writing = spool.begin()
    writing.write([b"half"])
    writing.abandon()
    writing.abandon()
    assert left(places) == []


def test_a_name_never_comes_twice_not_even_in_another_process(spool: Spool, places: Places) -> None:
    uris = {spool.store([b"x"]).uri for _ in range(50)}
    uris |= {Spool(places, min_free_bytes=0).store([b"x"]).uri for _ in range(3)}
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, spool.store([b"x"]).uri.encode())
        os._exit(0)
    uris.add(os.read(reading, 200).decode())
    os.wait()
    assert len(uris) == len(stored_files(places.spool)) == 54


@pytest.mark.parametrize("call", ["open", "writev", "fdatasync", "fsync"])
def test_whatever_step_fails_nothing_stays(
    spool: Spool, places: Places, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_args: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="broken"):
        spool.store([b"x"])
    monkeypatch.undo()
    assert left(places) == []


def test_a_name_whose_folder_could_not_be_synced_is_never_used_though_the_next_sync_succeeds(
    spool: Spool, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports a failed write-back once."""
    before = set(places.spool.glob("??/*"))
    made: set[Path] = set()
    real, fails = os.fsync, iter([True])

    def sync(fd: int) -> None:
        if is_folder_of_files(fd) and next(fails, False):
            made.update(set(places.spool.glob("??/*")) - before)
            raise OSError(errno.EIO, "broken")
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", sync)
        with pytest.raises(OSError, match="broken"):
            spool.prepare()
    assert len(made) > 10
    assert not [path for path in made if path.exists()]
    assert FolderInstances(places.spool).path(spool.store([b"x"]).uri) not in made


def test_every_name_is_synced_before_anyone_gets_it(
    spool: Spool, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync
    synced: set[Path] = set()

    def sync(fd: int) -> None:
        folder = Path(os.readlink(f"/proc/self/fd/{fd}"))
        known = set(folder.iterdir())
        real(fd)
        synced.update(known)

    monkeypatch.setattr(os, "fsync", sync)
    stored = [FolderInstances(places.spool).path(spool.store([b"x"]).uri) for _ in range(2000)]
    assert set(stored) <= synced
    assert len({path.parent for path in stored}) > 1


def test_names_that_nobody_used_go_when_the_spool_is_closed(spool: Spool, places: Places) -> None:
    spool.store([b"x"])
    assert len(list(places.spool.glob("??/*"))) > 1
    spool.close()
    assert list(places.spool.glob("??/*")) == stored_files(places.spool)


def test_a_file_stays_when_its_entry_may_be_in_the_journal(spool: Spool, places: Places) -> None:
    def fails_behind_the_line(_stored: object) -> None:
        raise OSError(errno.EIO, "not synced")

    def writes_no_line(_stored: object) -> None:
        raise NotJournaled(errno.ENOSPC, "full")

    for journal, kept in ((writes_no_line, 0), (fails_behind_the_line, 1)):
        writing = spool.begin()
        writing.write([b"x"])
        with pytest.raises(OSError, match=r"full|not synced"):
            writing.commit(journal)
        writing.abandon()
        assert len(left(places)) == kept


def test_below_the_free_space_to_keep_nothing_begins(places: Places) -> None:
    with pytest.raises(SpoolFull):
        Spool(places, min_free_bytes=1 << 62).begin()
    assert left(places) == []


def test_threads_that_need_names_at_once_make_them_once(
    spool: Spool, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[int] = []
    go, begun = threading.Event(), threading.Event()
    real = os.fsync

    def slow(fd: int) -> None:
        if is_folder_of_files(fd) and not syncs:
            syncs.append(fd)
            begun.set()
            assert go.wait(20)
        real(fd)

    monkeypatch.setattr(os, "fsync", slow)
    threads = [threading.Thread(target=spool.store, args=([b"x"],)) for _ in range(6)]
    for thread in threads:
        thread.start()
    assert begun.wait(20)
    go.set()
    for thread in threads:
        thread.join(20)
    assert len(stored_files(places.spool)) == 6
    assert len({path.parent for path in places.spool.glob("??/*")}) == 1
    assert len(list(places.spool.glob("??/*"))) == 64
