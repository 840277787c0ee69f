"""A file of the spool is whole and synced, or not there."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from hilum.adapters.folder import FolderInstances
from hilum_listener.handlers.spool import Spool, SpoolFull
from hilum_listener.settings import Places


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


@pytest.fixture
def spool(places: Places) -> Spool:
    return Spool(places, min_free_bytes=0)


def left(places: Places) -> list[Path]:
    return [*places.incoming.iterdir(), *places.spool.glob("??/*")]


def test_what_is_written_in_pieces_is_one_file_under_its_uri(spool: Spool, places: Places) -> None:
    writing = spool.begin()
    pieces = [bytes([n % 251]) * (n % 7) for n in range(3000)]
    writing.write(pieces[:2500])
    writing.write([memoryview(piece) for piece in pieces[2500:]])
    writing.write([])
    stored = writing.commit("1.2.3")
    assert stored.size == writing.size == sum(map(len, pieces))
    assert FolderInstances(places.spool).path(stored.uri).read_bytes() == b"".join(pieces)
    assert list(places.incoming.iterdir()) == []


def test_a_write_that_the_system_takes_in_small_pieces_is_whole(
    spool: Spool, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, buffers: real(fd, [memoryview(b"".join(buffers))[:7]]))
    stored = spool.store("1.2.3", [b"abc", b"", b"defghijklmnop", bytes(30), b"end"])
    assert FolderInstances(places.spool).path(stored.uri).read_bytes() == b"abcdefghijklmnop" + bytes(30) + b"end"


def test_an_abandoned_file_leaves_nothing_and_abandoning_twice_is_fine(spool: Spool, places: Places) -> None:
    writing = spool.begin()
    writing.write([b"half"])
    writing.abandon()
    writing.abandon()
    assert left(places) == []


def test_a_name_never_comes_twice_not_even_in_another_process(spool: Spool, places: Places) -> None:
    uris = {spool.store("1.2.3", [b"x"]).uri for _ in range(50)}
    uris |= {Spool(places, min_free_bytes=0).store("1.2.3", [b"x"]).uri for _ in range(3)}
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, spool.store("1.2.3", [b"x"]).uri.encode())
        os._exit(0)
    uris.add(os.read(reading, 200).decode())
    os.wait()
    assert len(uris) == len(list(places.spool.glob("??/*"))) == 54


@pytest.mark.parametrize("call", ["writev", "fdatasync", "rename", "fsync"])
def test_whatever_step_fails_nothing_stays(
    spool: Spool, places: Places, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_args: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="broken"):
        spool.store("1.2.3", [b"x"])
    monkeypatch.undo()
    assert left(places) == []


def test_below_the_free_space_to_keep_nothing_begins(places: Places) -> None:
    with pytest.raises(SpoolFull):
        Spool(places, min_free_bytes=1 << 62).begin()
    assert left(places) == []


def test_a_discarded_file_is_gone(spool: Spool, places: Places) -> None:
    spool.discard(spool.store("1.2.3", [b"x"]))
    assert left(places) == []


def test_threads_that_ask_while_a_folder_syncs_share_the_next_sync(
    spool: Spool, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs: list[int] = []
    go, begun = threading.Event(), threading.Event()
    real = os.fsync

    def slow(fd: int) -> None:
        syncs.append(fd)
        begun.set()
        assert go.wait(20)
        real(fd)

    monkeypatch.setattr(os, "fsync", slow)

    threads = [threading.Thread(target=spool.store, args=("1.2.3", [b"x"])) for _ in range(6)]
    threads[0].start()
    assert begun.wait(20)
    for thread in threads[1:]:
        thread.start()
    deadline = time.monotonic() + 20
    while len(list(places.spool.glob("??/*"))) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    go.set()
    for thread in threads:
        thread.join(20)
    assert 2 <= len(syncs) < 6
