"""The journal survives being cut anywhere, and says so when a line is damaged."""

import errno
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilum_listener.handlers.journal import (
    AssociationChanged,
    Entry,
    InstanceReceived,
    JournalWriter,
    NotJournaled,
    decode,
    encode,
    is_growing,
    read,
)

AT = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
TEXT = st.text(max_size=40)
INSTANCES = st.builds(
    InstanceReceived,
    uri=TEXT,
    sha256=TEXT,
    size=st.integers(0, 2**40),
    sop_instance_uid=TEXT,
    sop_class_uid=TEXT,
    transfer_syntax_uid=TEXT,
    calling_ae=TEXT,
    peer=TEXT,
    association=TEXT,
    received_at=st.datetimes(timezones=st.just(UTC)),
)


def association(change: str) -> AssociationChanged:
    return AssociationChanged(change, "MODALITY", "127.0.0.1", "a-1", AT)


@given(INSTANCES)
def test_an_entry_comes_back_from_its_line(entry: Entry) -> None:
    line = encode(entry)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line[:-1]) == entry


@given(INSTANCES, st.data())
def test_a_line_with_one_changed_byte_is_not_believed(entry: Entry, data: st.DataObject) -> None:
    line = bytearray(encode(entry)[:-1])
    at = data.draw(st.integers(0, len(line) - 1))
    line[at] ^= data.draw(st.integers(1, 255))
    assert decode(bytes(line)) is None


def test_what_a_kill_tore_at_the_end_is_left_out_wherever_it_was_cut(tmp_path: Path) -> None:
    first, second = encode(association("opened")), encode(association("released"))
    path = tmp_path / "j.jsonl"
    for cut in range(len(second)):
        path.write_bytes(first + second[:cut])
        found = read(path, 0)
        assert [entry for entry, _ in found.entries] == [association("opened")]
        assert found.end == len(first)


def test_reading_goes_on_behind_a_damaged_line(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"type":"garbage"}\n' + encode(association("opened")))
    assert [entry for entry, _ in read(path, 0).entries] == [None, association("opened")]


def test_reading_from_the_position_behind_an_entry_gives_what_follows(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, started_at=AT)
    for change in ("opened", "released", "aborted"):
        writer.append(association(change))
    (path,) = tmp_path.glob("*.jsonl")
    _, behind_first = read(path, 0).entries[0]
    rest = [entry for entry, _ in read(path, behind_first).entries]
    assert rest == [association("released"), association("aborted")]


def test_after_a_failed_sync_the_next_entry_goes_to_a_new_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path, started_at=AT)
    writer.append(association("opened"))

    def fail(_fd: int) -> None:
        raise OSError(5, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        with pytest.raises(OSError, match="input/output"):
            writer.append(association("released"))
    writer.append(association("aborted"))
    _, second = sorted(tmp_path.glob("*.jsonl"))
    assert [entry for entry, _ in read(second, 0).entries] == [association("aborted")]


def test_an_entry_beside_a_failed_sync_is_not_taken_for_durable_though_the_next_sync_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports a failed write-back once: the second thread's fdatasync returns 0 for pages that are gone."""
    writer = JournalWriter(tmp_path, started_at=AT)
    writer.append(association("opened"))
    both_written = threading.Event()
    real, reports = os.fdatasync, iter([True])
    outcomes: dict[str, str] = {}

    def fails_once(fd: int) -> None:
        if next(reports, False):
            assert both_written.wait(10)
            raise OSError(errno.EIO, "input/output error")
        real(fd)

    def append(change: str) -> None:
        try:
            writer.append(association(change))
            outcomes[change] = "durable"
        except OSError as error:
            outcomes[change] = errno.errorcode[error.errno or 0]

    monkeypatch.setattr(os, "fdatasync", fails_once)
    threads = [threading.Thread(target=append, args=(change,)) for change in ("released", "aborted")]
    for thread in threads:
        thread.start()
    (path,) = tmp_path.glob("*.jsonl")
    while len(read(path, 0).entries) < 3:
        threading.Event().wait(0.001)
    both_written.set()
    for thread in threads:
        thread.join(10)
    assert outcomes == {"released": "EIO", "aborted": "EIO"}
    writer.append(association("opened"))
    assert len(list(tmp_path.glob("*.jsonl"))) == 2


def test_an_entry_that_was_synced_before_the_failure_stays_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path, started_at=AT)
    writer.append(association("opened"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", _refusing(errno.EIO))
        with pytest.raises(OSError, match="EIO"):
            writer.append(association("released"))
    first, *_ = sorted(tmp_path.glob("*.jsonl"))
    assert read(first, 0).entries[0][0] == association("opened")


def test_a_full_disk_that_takes_a_part_of_a_line_leaves_the_journal_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path, started_at=AT)
    writer.append(association("opened"))
    real = os.pwrite
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[: len(data) // 2], at))
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                writer.append(association("released"))
    writer.append(association("aborted"))
    (path,) = tmp_path.glob("*.jsonl")
    assert [entry for entry, _ in read(path, 0).entries] == [association("opened"), association("aborted")]


def test_a_disk_that_fails_for_long_costs_no_descriptor_and_no_empty_journals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path, started_at=AT)
    writer.append(association("opened"))
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _refusing(errno.EIO))
        patch.setattr(os, "fdatasync", _refusing(errno.EIO))
        for _ in range(20):
            with pytest.raises(OSError, match="EIO"):
                writer.append(association("released"))
    assert len(os.listdir("/proc/self/fd")) <= before
    assert len(list(tmp_path.iterdir())) == 1
    writer.append(association("aborted"))


def test_a_journal_that_is_long_enough_is_followed_by_another(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, started_at=AT, rotate_bytes=200)
    for _ in range(6):
        writer.append(association("opened"))
    first, *_, last = sorted(tmp_path.glob("*.jsonl"))
    assert sum(len(read(path, 0).entries) for path in tmp_path.glob("*.jsonl")) == 6
    assert not is_growing(first)
    assert is_growing(last)


def test_an_entry_goes_over_zeros_that_are_there_already_and_a_closed_journal_has_none(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, started_at=AT)
    writer.append(association("opened"))
    (path,) = tmp_path.glob("*.jsonl")
    size = path.stat().st_size
    for _ in range(50):
        writer.append(association("released"))
    assert path.stat().st_size == size > len(encode(association("released"))) * 51
    writer.close()
    assert path.read_bytes() == encode(association("opened")) + 50 * encode(association("released"))


@pytest.mark.parametrize("limit_bytes", [1, 100, 1 << 20])
def test_zeros_are_no_entry_yet_however_much_of_a_line_stands_before_them(tmp_path: Path, limit_bytes: int) -> None:
    first, second = encode(association("opened")), encode(association("released"))
    path = tmp_path / "j.jsonl"
    for written in range(len(second) + 1):
        path.write_bytes(first + second[:written] + bytes(4096 - written))
        found = read(path, len(first), limit_bytes=limit_bytes)
        assert [entry for entry, _ in found.entries] == [association("released")] * (written == len(second))
    hole = bytearray(first + second + first + bytes(100))
    hole[len(first) + 5 : len(first) + 9] = bytes(4)  # a line that is being written, or a page that a power cut lost
    path.write_bytes(hole)
    assert read(path, 0).end == len(first)


def test_a_disk_that_has_no_room_for_zeros_takes_entries_as_long_as_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit, real = 1000, os.pwrite

    def small(fd: int, content: bytes, at: int) -> int:
        if at >= limit:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, content[: limit - at], at)

    monkeypatch.setattr(os, "pwrite", small)
    writer, whole = JournalWriter(tmp_path, started_at=AT), limit // len(encode(association("opened")))
    for _ in range(whole):
        writer.append(association("opened"))
    with pytest.raises(NotJournaled):
        writer.append(association("opened"))
    (path,) = tmp_path.glob("*.jsonl")
    assert len(read(path, 0).entries) == whole


def test_a_journal_grows_from_before_it_has_its_name_until_its_writer_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = JournalWriter(tmp_path, started_at=AT)
    seen: list[bool] = []
    real = os.rename

    def look(source: Path, target: Path) -> None:
        real(source, target)
        seen.append(is_growing(target))

    monkeypatch.setattr(os, "rename", look)
    writer.append(association("opened"))
    assert seen == [True]
    writer.close()
    (path,) = tmp_path.glob("*.jsonl")
    assert not is_growing(path)


def _refusing(number: int) -> Any:
    def refuse(*_args: Any) -> None:
        raise OSError(number, errno.errorcode[number])

    return refuse
