"""A request is answered Success only for bytes that are on the disk, as they came."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from hilum.adapters.dicom.implementation import IMPLEMENTATION_CLASS_UID
from hilum.testing.dicom_files import chest_image, write
from hilum_listener.handlers.journal import InstanceReceived, read
from hilum_listener.handlers.receive import Status
from hilum_listener.handlers.spool import Spool
from hilum_listener.settings import Places
from hilum_listener.testing import Listener, encoded_dataset, stored_files


def files(places: Places) -> list[Path]:
    return stored_files(places.spool)


def journaled(listener: Listener) -> list[InstanceReceived]:
    found = []
    for path in sorted(listener.places.journal.glob("*.jsonl")):
        found += [entry for entry, _ in read(path, 0).entries if isinstance(entry, InstanceReceived)]
    return found


def test_the_stored_file_holds_the_data_set_bit_for_bit_under_readable_meta_information(listener: Listener) -> None:
    dataset = chest_image(np.zeros((4, 4), np.uint16))
    sent = encoded_dataset(write(listener.places.data / "x.dcm", dataset))
    assert listener.receive(sent, sop_uid=dataset.SOPInstanceUID, sop_class=dataset.SOPClassUID) is Status.SUCCESS
    (path,) = files(listener.places)
    assert encoded_dataset(path) == sent
    meta = dcmread(path, stop_before_pixels=True).file_meta
    assert meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    assert meta.MediaStorageSOPClassUID == dataset.SOPClassUID
    assert meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID


def test_the_journal_names_the_file_by_uri_and_size(listener: Listener) -> None:
    listener.image()
    (entry,), (path,) = journaled(listener), files(listener.places)
    assert entry.uri == f"spool:{path.parent.name}/{path.name}"
    assert entry.size == path.stat().st_size
    assert entry.received_at == listener.clock.now()


def test_the_same_bytes_again_are_acknowledged_and_journaled_and_overwrite_nothing(listener: Listener) -> None:
    listener.image()
    (before,) = files(listener.places)
    changed = before.stat().st_mtime_ns
    assert listener.image() is Status.SUCCESS
    one, other = files(listener.places)
    assert one.read_bytes() == other.read_bytes()
    assert before.stat().st_mtime_ns == changed
    assert len({entry.uri for entry in journaled(listener)}) == 2


def test_the_answer_comes_after_the_data_and_the_journal_are_synced_whose_names_are_since_before(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener.image(name="first")  # folders and journal are there now
    steps: list[str] = []
    names = {}
    for call in ("fdatasync", "fsync"):
        real = getattr(os, call)

        def noted(fd: int, real: Any = real, call: str = call) -> None:
            names[len(steps)] = os.readlink(f"/proc/self/fd/{fd}")
            steps.append(call)
            real(fd)

        monkeypatch.setattr(os, call, noted)
    assert listener.image(name="second") is Status.SUCCESS
    order = [names[n] for n in range(len(steps)) if names[n] != str(listener.places.spool)]
    (path,) = [
        p
        for p in files(listener.places)
        if p.stat().st_mtime_ns == max(f.stat().st_mtime_ns for f in files(listener.places))
    ]
    assert order[0] == str(path)
    assert [Path(one).parent for one in order[1:]] == [listener.places.journal]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["writev", "fdatasync"])
def test_a_disk_that_refuses_is_answered_out_of_resources_and_leaves_nothing(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def fail(*_args: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        assert listener.image(over="a-1") is Status.OUT_OF_RESOURCES
    assert files(listener.places) == []
    assert list(listener.places.incoming.iterdir()) == []
    assert journaled(listener) == []
    assert listener.image() is Status.SUCCESS, "the sender can try again"


def test_below_the_free_space_to_keep_nothing_is_taken(listener: Listener) -> None:
    listener.spool = Spool(listener.places, min_free_bytes=1 << 62)
    assert listener.image() is Status.OUT_OF_RESOURCES
    assert files(listener.places) == []


def test_an_empty_data_set_is_not_understood(listener: Listener) -> None:
    assert listener.receive(b"", sop_uid="1.2.3", sop_class="1.2") is Status.CANNOT_UNDERSTAND


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"])
def test_a_data_set_of_another_instance_or_class_than_the_request_is_refused(listener: Listener, syntax: str) -> None:
    dataset = chest_image(np.zeros((4, 4), np.uint16))
    assert listener.receive(dataset, sop_uid="1.2.3.4", syntax=syntax) is Status.DOES_NOT_MATCH_SOP_CLASS
    assert listener.receive(dataset, sop_class="1.2.3.4", syntax=syntax) is Status.DOES_NOT_MATCH_SOP_CLASS
    assert files(listener.places) == []


@pytest.mark.parametrize("garbage", [b"\0", b"not a data set at all" * 9, b"\xff" * 4000])
def test_bytes_that_no_one_understands_are_kept(listener: Listener, garbage: bytes) -> None:
    assert listener.receive(garbage, sop_uid="1.2.3", sop_class="1.2") is Status.SUCCESS
    (path,) = files(listener.places)
    assert encoded_dataset(path) == garbage


def test_what_is_no_uid_is_not_understood_and_never_becomes_a_path(listener: Listener) -> None:
    assert listener.receive(b"x" * 40, sop_uid="../../../etc/passwd", sop_class="1.2") is Status.CANNOT_UNDERSTAND
    assert listener.receive(b"x" * 40, sop_uid="1.2", sop_class="CT") is Status.CANNOT_UNDERSTAND
    assert files(listener.places) == []


def test_what_a_kill_left_half_written_is_removed_at_start(listener: Listener) -> None:
    (listener.places.incoming / "1-1.part").write_bytes(b"half")
    assert Spool(listener.places, min_free_bytes=0).clean() == 1
    assert list(listener.places.incoming.iterdir()) == []


def test_a_journal_that_takes_no_entry_leaves_no_file_either(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        assert listener.image(over="a-1") is Status.OUT_OF_RESOURCES
    assert files(listener.places) == []
