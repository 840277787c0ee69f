"""A lost database: what the journals no longer tell is journaled again, once, and the sweep takes none of it."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from hilum.adapters.sql.database import reading, transaction
from hilum.adapters.sql.tables import instances, metadata, quarantine, studies
from hilum_listener.handlers.journal_since import begin_journals, forget_journals, journals_since
from hilum_listener.handlers.leftovers import Leftovers
from hilum_listener.handlers.receiver_lock import AlreadyRunning, lock
from hilum_listener.handlers.reindex import SENDER, Reindexed, reindex
from hilum_listener.testing import QUIET, Listener, stored_files

DAY_S = 86_400.0


def old(listener: Listener, *, days: float = 10) -> None:
    """Everything that is in the spool came so long ago."""
    for path in listener.places.spool.glob("??/*.dcm"):
        changed = path.stat().st_mtime - days * DAY_S
        os.utime(path, (changed, changed))


def prune(listener: Listener, *, days: float = 7) -> None:
    """As retention does."""
    since = journals_since(listener.places.journal)
    assert since is not None
    forget_journals(listener.places.journal, since - days * DAY_S + 1)
    os.utime(listener.places.journal / "since", (since - days * DAY_S,) * 2)
    for path in listener.places.journal.glob("*.jsonl"):
        path.unlink()


def lose_the_database(listener: Listener) -> None:
    with transaction(listener.engine) as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(sa.delete(table))
    listener.assembler = listener.new_assembler()


def again(listener: Listener, *, dry_run: bool = False) -> Reindexed:
    with reading(listener.engine) as connection:
        return reindex(listener.places, connection, listener.clock.now(), dry_run=dry_run)


def sweep(listener: Listener) -> None:
    leftovers = Leftovers(listener.places, listener.engine, None)
    now = listener.clock.now()
    for _ in range(600):
        leftovers.step(now)
        now += timedelta(seconds=1)


def lost(listener: Listener) -> list[Path]:
    """Two images whose journal was removed long ago, and then the database was lost."""
    listener.journal.close()
    for name in ("one", "two"):
        listener.image(name=name)
    listener.step(after=QUIET)
    listener.journal.close()
    listener.dies()
    old(listener)
    prune(listener)
    lose_the_database(listener)
    return stored_files(listener.places.spool)


def test_files_that_nobody_knows_any_more_are_indexed_again_and_say_so(listener: Listener) -> None:
    lost(listener)
    listener.step()
    assert listener.rows(instances) == [], "nothing tells of them"
    assert again(listener).journaled == 2
    listener.step(after=QUIET)
    assert len(listener.rows(instances)) == 2
    (study,) = listener.rows(studies)
    assert study.calling_ae == SENDER
    assert [len(m.series[0].instances) for m in listener.ready()] == [2], "one study, complete at once, with all of it"


def test_the_same_again_journals_nothing(listener: Listener) -> None:
    lost(listener)
    assert again(listener).journaled == 2
    assert again(listener).journaled == 0, "not folded yet, and journaled"
    listener.step()
    assert again(listener).known == 2
    listener.step(after=QUIET)
    assert len(listener.rows(instances)) == 2
    assert listener.rows(quarantine) == []
    assert len(stored_files(listener.places.spool)) == 2


def test_a_dry_run_only_counts(listener: Listener) -> None:
    lost(listener)
    assert again(listener, dry_run=True).journaled == 2
    assert list(listener.places.journal.glob("*.jsonl")) == []


def test_a_kill_before_the_journal_has_its_name_leaves_nothing_that_counts(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost(listener)

    def dies_here(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", dies_here)
        with pytest.raises(KeyboardInterrupt):
            again(listener)
    listener.step()
    assert listener.rows(instances) == []
    listener.clock.advance(timedelta(seconds=1))
    assert again(listener).journaled == 2


def test_the_sweep_takes_nothing_that_was_acknowledged_when_database_and_journals_are_gone(listener: Listener) -> None:
    files = lost(listener)
    sweep(listener)
    assert stored_files(listener.places.spool) == files


def test_nor_when_the_whole_folder_of_journals_is_gone_and_made_again(listener: Listener) -> None:
    listener.image()
    listener.step()
    listener.dies()
    old(listener, days=0.01)
    files = stored_files(listener.places.spool)
    for path in listener.places.journal.iterdir():
        path.unlink()
    lose_the_database(listener)
    sweep(listener)
    assert stored_files(listener.places.spool) == files
    assert again(listener).journaled == 1


def test_what_was_never_acknowledged_is_the_sweeps_and_not_taken_for_lost(listener: Listener) -> None:
    writing = listener.spool.begin()
    writing.write([b"half an image"])
    listener.dies()
    found = again(listener)
    assert (found.journaled, found.never_acknowledged) == (0, 1)
    sweep(listener)
    assert stored_files(listener.places.spool) == []


def test_what_a_receiver_writes_just_now_is_left_alone(listener: Listener) -> None:
    writing = listener.spool.begin()
    writing.write([b"half an image"])
    old(listener)
    found = again(listener)
    assert (found.journaled, found.being_received) == (0, 1)


def test_what_is_no_image_is_quarantined_and_stops_nothing(listener: Listener) -> None:
    files = lost(listener)
    files[0].write_bytes(b"noise" * 100)
    old(listener)
    assert again(listener).journaled == 2
    listener.step(after=QUIET)
    assert len(listener.rows(instances)) == len(listener.rows(quarantine)) == 1
    assert listener.rows(quarantine)[0].calling_ae == SENDER


def test_two_at_once_do_not_run(listener: Listener) -> None:
    fd = lock(listener.places.run, "reindex")
    with pytest.raises(AlreadyRunning):
        again(listener)
    os.close(fd)
    assert again(listener).files == 0


def test_the_time_since_which_journals_are_there_only_goes_on(listener: Listener) -> None:
    journal = listener.places.journal
    first = journals_since(journal)
    assert first is not None
    begin_journals(journal)
    forget_journals(journal, first - 5)
    assert journals_since(journal) == first
    forget_journals(journal, first + 5)
    assert journals_since(journal) == pytest.approx(first + 5)
    assert journals_since(journal / "nowhere") is None


def test_pruning_journals_moves_the_time_on_first(listener: Listener) -> None:
    listener.image()
    listener.step()
    listener.journal.close()
    for _ in range(600):
        listener.step()
        listener.assembler._tidier.step()
    listener.clock.advance(timedelta(days=40))
    for _ in range(600):
        listener.assembler._tidier.step()
        listener.clock.advance(timedelta(seconds=1))
    assert list(listener.places.journal.glob("*.jsonl")) == []
    since = journals_since(listener.places.journal)
    assert since is not None
    assert since > stored_files(listener.places.spool)[0].stat().st_mtime
