"""The journal survives being cut anywhere, and says so when a line is damaged."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilum_listener.handlers.journal import (
    AssociationChanged,
    Entry,
    InstanceReceived,
    JournalWriter,
    decode,
    encode,
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
    _, second = sorted(tmp_path.glob("*.jsonl"), key=lambda path: len(path.name))
    assert [entry for entry, _ in read(second, 0).entries] == [association("aborted")]
