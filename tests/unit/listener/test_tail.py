"""The tail of the journals: nothing is missed, and what can't grow any more costs nothing."""

import errno
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hilum.adapters.sql.tables import instances, quarantine
from hilum.domain.errors import Busy
from hilum_listener.handlers import index, tail
from hilum_listener.handlers.journal import AssociationChanged, InstanceReceived, JournalWriter, encode, read
from hilum_listener.handlers.tail import Tail
from hilum_listener.testing import Listener, stored_files

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)


def entry(number: int, *, size: int = 10) -> InstanceReceived:
    return InstanceReceived(
        uri=f"spool:{number}", size=size, sop_instance_uid="1.2", sop_class_uid="1.2", transfer_syntax_uid="1.2",
        calling_ae="CT", peer="127.0.0.1", association="a", received_at=AT,
    )  # fmt: skip


def take(following: Tail) -> list[str]:
    """Folds everything that is there."""
    found = []
    for batch in following.unread():
        found += [one.uri for one, _ in batch.entries if isinstance(one, InstanceReceived)]
        following.positions[batch.journal] = batch.end
    return found


def test_a_closed_journal_is_read_to_its_end_and_then_never_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for writer_number in range(3):
        writer = JournalWriter(tmp_path, started_at=AT + timedelta(seconds=writer_number))
        writer.append(entry(writer_number))
        writer.close()
    following = Tail(tmp_path)
    assert take(following) == ["spool:0", "spool:1", "spool:2"]
    take(following)
    assert len(following.ended) == 3

    def refuse(*_args: Any, **_options: Any) -> None:
        raise AssertionError("a journal that has ended was looked at")

    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(tail, "read", refuse)
    assert take(following) == []


def test_a_journal_of_a_living_writer_is_followed_through_any_number_of_looks(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, started_at=AT)
    following = Tail(tmp_path)
    for number in range(600):
        if number % 3 == 0:
            writer.append(entry(number), sync=False)
            assert take(following) == [f"spool:{number}"]
        else:
            assert take(following) == []
    assert following.ended == frozenset()


def test_the_journal_of_a_killed_writer_ends_in_zeros_and_has_an_end_all_the_same(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, started_at=AT)
    writer.append(entry(1))
    (path,) = tmp_path.glob("*.jsonl")
    killed = tmp_path / "20200101T000000000000-1-0000.jsonl"
    killed.write_bytes(path.read_bytes())
    assert killed.read_bytes().endswith(b"\0" * 1000)
    following = Tail(tmp_path)
    assert take(following) == ["spool:1"] * 2
    take(following)
    assert following.ended == {killed.name}


def test_what_a_writer_adds_between_the_look_and_its_end_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path, started_at=AT)
    writer.append(entry(1))
    following = Tail(tmp_path)
    take(following)

    def writes_and_ends(path: Path) -> bool:
        writer.append(entry(2))
        writer.close()
        return False

    monkeypatch.setattr(tail, "is_growing", writes_and_ends)
    found = take(following)
    monkeypatch.setattr(tail, "is_growing", lambda _path: False)
    assert found + take(following) == ["spool:2"]


def test_a_line_longer_than_what_is_read_at_once_holds_nothing_up(tmp_path: Path) -> None:
    long = AssociationChanged("opened", "CT", "127.0.0.1", "a" * 300_000, AT)
    path = tmp_path / "j.jsonl"
    path.write_bytes(encode(long) + encode(entry(1)) + b'{"torn')
    following = Tail(tmp_path)
    assert take(following) == ["spool:1"]
    assert next(one for one, _ in read(path, 0).entries) == long


def test_large_files_come_in_small_batches(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, started_at=AT)
    for number in range(12):
        writer.append(entry(number, size=15_000_000), sync=False)
    sizes, following = [], Tail(tmp_path)
    for batch in following.unread():
        sizes.append(len(batch.entries))
        following.positions[batch.journal] = batch.end
    assert sizes == [5, 5, 2]


# --- files that can't be read -----------------------------------------------------------------------------------------


def unreadable(monkeypatch: pytest.MonkeyPatch, listener: Listener, study_file: Path, number: int) -> None:
    real = index._digest

    def digest(path: Path) -> str:
        if path == study_file:
            raise OSError(number, os.strerror(number))
        return real(path)

    monkeypatch.setattr(index, "_digest", digest)


def patiently(listener: Listener, tries: int) -> None:
    for _ in range(tries):
        with pytest.raises(Busy):
            listener.step()


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_one_file_that_cannot_be_read_is_quarantined_after_some_tries_and_the_others_go_on(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    listener.image(study="bad")
    (bad,) = stored_files(listener.places.spool)
    listener.image(study="good")
    unreadable(monkeypatch, listener, bad, number)
    patiently(listener, 3)
    listener.step()
    (row,) = listener.rows(quarantine)
    assert row.uri.endswith(bad.name)
    assert row.reason == f"the stored file can't be read ({errno.errorcode[number]})"
    assert len(listener.rows(instances)) == 1


def test_an_error_that_passes_costs_nothing(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    listener.image()
    (bad,) = stored_files(listener.places.spool)
    with monkeypatch.context() as patch:
        unreadable(patch, listener, bad, errno.EIO)
        patiently(listener, 2)
    listener.step()
    assert (len(listener.rows(instances)), listener.rows(quarantine)) == (1, [])


def test_without_descriptors_or_memory_the_assembler_waits_and_blames_no_file(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener.image()
    (file,) = stored_files(listener.places.spool)
    with monkeypatch.context() as patch:
        unreadable(patch, listener, file, errno.EMFILE)
        patiently(listener, 9)
    listener.step()
    assert len(listener.rows(instances)) == 1


def test_while_the_folder_is_away_no_file_is_blamed(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    listener.image()
    away = listener.places.data / "away"
    batch = next(listener.assembler._tail.unread())
    listener.places.spool.rename(away)
    for _ in range(9):
        with pytest.raises(Busy):
            listener.assembler._fold(batch)
    away.rename(listener.places.spool)
    listener.step()
    assert (len(listener.rows(instances)), listener.rows(quarantine)) == (1, [])


def test_a_file_that_changed_on_the_disk_is_quarantined(listener: Listener) -> None:
    listener.image()
    (path,) = stored_files(listener.places.spool)
    path.write_bytes(path.read_bytes()[:-2])
    listener.step()
    assert [row.reason for row in listener.rows(quarantine)] == ["the stored file is not what was received"]


def test_a_request_that_names_half_a_character_stops_no_one(listener: Listener) -> None:
    listener.image()
    (path,) = stored_files(listener.places.spool)
    uri = f"spool:{path.parent.name}/{path.name}"
    strange = InstanceReceived(
        uri=uri, size=path.stat().st_size, sop_instance_uid="../\udcff\x00x", sop_class_uid="1.2",
        transfer_syntax_uid="1.2", calling_ae="\ud800", peer="127.0.0.1", association="a", received_at=AT,
    )  # fmt: skip
    listener.journal.append(strange)
    listener.step()
    assert len(listener.rows(quarantine)) == len(listener.rows(instances)) == 1
