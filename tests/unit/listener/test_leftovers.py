"""What a dead receiver left in the spool goes; what anybody was told of, or may have been told of, stays."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hilum.adapters.sql.tables import instances
from hilum.domain.errors import Busy
from hilum_listener.handlers.journal import JournalWriter
from hilum_listener.handlers.leftovers import Leftovers
from hilum_listener.handlers.receive import Status
from hilum_listener.handlers.spool import Spool
from hilum_listener.testing import Listener, stored_files, unfinished_files

NOW = datetime.now(UTC)  # the file system stamps the files


def sweep(listener: Listener, *, journal_days: float | None = None, now: datetime = NOW) -> None:
    leftovers = Leftovers(listener.places, listener.engine, journal_days)
    for _ in range(600):
        leftovers.step(now)


def names(listener: Listener) -> list[Path]:
    return list(listener.places.spool.glob("??/*"))


def killed(listener: Listener, monkeypatch: pytest.MonkeyPatch, before: str, name: str) -> None:
    """Another receiver stores an image and dies before its first call of that function."""
    pid = os.fork()
    if pid == 0:
        try:
            listener.spool = Spool(listener.places, min_free_bytes=0)
            listener.journal = JournalWriter(listener.places.journal, started_at=NOW)
            listener.spool.prepare()
            monkeypatch.setattr(os, before, lambda *_args: os._exit(0))
            listener.image(name=name)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize(("before", "written"), [("writev", 0), ("fdatasync", 1), ("pwrite", 1)])
def test_what_a_kill_left_between_two_steps_goes_and_what_was_acknowledged_stays(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, before: str, written: int
) -> None:
    listener.image(name="acknowledged")
    (kept,) = stored_files(listener.places.spool)
    killed(listener, monkeypatch, before, "lost")
    assert len(unfinished_files(listener.places.spool)) == written
    assert len(names(listener)) == 128
    sweep(listener)
    assert stored_files(listener.places.spool) == [kept]
    assert len(names(listener)) == 64, "those of the run that lives"
    assert listener.image(name="lost") is Status.SUCCESS
    listener.step()
    assert len(listener.rows(instances)) == 2


def test_a_file_that_is_journaled_and_not_indexed_yet_stays(listener: Listener) -> None:
    listener.image()
    listener.dies()
    sweep(listener)
    assert len(names(listener)) == 1
    listener.step()
    assert len(listener.rows(instances)) == 1


def test_a_file_that_is_indexed_and_in_no_journal_any_more_stays(listener: Listener) -> None:
    listener.image()
    listener.step()
    listener.dies()
    for path in listener.places.journal.glob("*.jsonl"):
        path.unlink()
    sweep(listener)
    assert len(names(listener)) == 1


def test_a_file_whose_line_is_damaged_stays(listener: Listener) -> None:
    listener.image()
    (path,) = listener.places.journal.glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"crc":"', b'"crc":"x', 1))
    listener.dies()
    sweep(listener)
    assert len(stored_files(listener.places.spool)) == 1


def test_a_file_that_is_older_than_journals_are_kept_stays_since_its_entry_may_have_gone(listener: Listener) -> None:
    writing = listener.spool.begin()
    writing.write([b"x"])
    listener.dies()
    sweep(listener, journal_days=7, now=NOW + timedelta(days=8))
    assert len(names(listener)) == 1


def test_the_files_of_a_run_that_lives_stay(listener: Listener) -> None:
    writing = listener.spool.begin()
    writing.write([b"x"])
    sweep(listener)
    assert len(names(listener)) == 64
    assert writing.commit().size == 1


def test_a_kill_on_the_way_repeats_the_search(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    listener.spool.begin().write([b"x"])
    listener.dies()
    real, left = Path.unlink, iter(range(3))

    def some(path: Path, **options: Any) -> None:
        if next(left, None) is None:
            raise OSError("killed")
        real(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", some)
        with pytest.raises(Busy):
            sweep(listener)
    assert 0 < len(names(listener)) < 64
    sweep(listener)
    assert names(listener) == list(listener.places.runs.iterdir()) == []


def test_the_tidier_does_it(listener: Listener) -> None:
    listener.spool.begin().write([b"x"])
    listener.dies()
    for _ in range(100):
        listener.assembler._tidier.step()
        listener.clock.advance(timedelta(seconds=1))
    assert names(listener) == []
