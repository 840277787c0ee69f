"""`hilum send` and its SCU, against a real receiver."""

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from click.testing import Result
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless
from pynetdicom import AE, AllStoragePresentationContexts, evt

from hilum.testing.external import free_port
from hilum_standalone.receivers import dicom
from hilum_standalone.receivers.kept import Kept
from hilum_standalone.samples import Image, Order, write
from hilum_standalone.sender import Item, Outcome, Target, batches, inspect, parse_target, send, status_words

Hilum = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images in two transfer syntaxes, a DICOMDIR and a text file."""
    order = Order("1.2.3", "Sample^A", "1", "19700101", "F", "A1", "Chest", datetime(2026, 11, 24, tzinfo=UTC))
    pixels = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    root = tmp_path / "files"
    write(root / "a" / "1.dcm", Image(pixels, "CR", number=1), order)
    write(root / "a" / "2.dcm", Image(pixels, "CR", number=2, transfer_syntax=JPEG2000Lossless), order)
    directory = pydicom.Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.1.3.10")
    directory.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.9")
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.save_as(root / "DICOMDIR", enforce_file_format=True)
    return root


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    port = free_port()
    server = dicom.serve(Kept(tmp_path / "received"), host="127.0.0.1", port=port)
    yield f"DEMO_PACS@127.0.0.1:{port}", tmp_path / "received"
    server.shutdown()


def test_a_folder_is_sent_unchanged_in_its_own_syntaxes_without_its_dicomdir(
    hilum: Hilum, folder: Path, receiver: tuple[str, Path]
) -> None:
    done = hilum("send", folder, "--to", receiver[0])
    assert done.exit_code == 0, done.output
    assert f"2 of 2 files stored by {receiver[0]}" in done.output
    sent = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, (folder / "a").iterdir())}
    for path in receiver[1].glob("*.dcm"):
        received = pydicom.dcmread(path)
        original = sent.pop(received.SOPInstanceUID)
        assert received.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
        assert received.PixelData == original.PixelData
    assert not sent


def test_a_file_that_is_no_dicom_is_listed_and_the_rest_is_sent(
    hilum: Hilum, folder: Path, receiver: tuple[str, Path]
) -> None:
    (folder / "notes.txt").write_text("no DICOM")
    done = hilum("send", folder, "--to", receiver[0])
    assert done.exit_code == 1
    assert "2 of 3 files stored" in done.output
    assert f"{folder / 'notes.txt'}: not a DICOM file" in done.output


def test_a_peer_that_refuses_is_quoted_with_its_status(hilum: Hilum, folder: Path) -> None:
    entity = AE(ae_title="FULL")
    entity.add_supported_context("1.2.840.10008.5.1.4.1.1.1", ["1.2.840.10008.1.2.1", JPEG2000Lossless])
    port = free_port()
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: 0xA700)])
    assert server is not None
    try:
        done = hilum("send", folder / "a", "--to", f"FULL@127.0.0.1:{port}")
    finally:
        server.shutdown()
    assert done.exit_code == 1
    assert "0 of 2 files stored" in done.output
    assert done.output.count("refused: out of resources (0xA700)") == 2


def test_nobody_there_is_one_line(hilum: Hilum, folder: Path) -> None:
    target = f"NONE@127.0.0.1:{free_port()}"
    done = hilum("send", folder, "--to", target)
    assert done.exit_code == 1
    assert f"{target} does not answer" in done.output


@pytest.mark.parametrize("text", ["HILUM", "HILUM@host", "@host:1", "HILUM@host:port", "A" * 17 + "@h:1", "A@h:70000"])
def test_a_target_of_another_form_is_an_error_with_an_example(hilum: Hilum, folder: Path, text: str) -> None:
    done = hilum("send", folder, "--to", text)
    assert done.exit_code == 2
    assert "HILUM@127.0.0.1:11112" in done.output


def test_a_target_may_be_an_ipv6_address() -> None:
    assert parse_target("A@[::1]:104") == Target("A", "::1", 104)


def test_more_than_128_contexts_are_sent_in_several_associations(folder: Path) -> None:
    items = [Item(Path("x"), f"1.2.{n}", "1.2.840.10008.1.2") for n in range(300)]
    found = batches([*items, *items])
    assert [len({(i.sop_class_uid, i.transfer_syntax_uid) for i in batch}) for batch in found] == [128] * 4 + [88]
    assert [item for batch in found for item in batch] == [*items, *items]


def test_files_of_132_storage_classes_arrive(folder: Path, tmp_path: Path) -> None:
    port = free_port()
    entity = AE(ae_title="ANY")
    classes = [str(context.abstract_syntax) for context in AllStoragePresentationContexts][:132]
    for uid in classes:
        entity.add_supported_context(uid, "1.2.840.10008.1.2.1")
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: 0)])
    assert server is not None
    items = []
    for number, uid in enumerate(classes):
        path = tmp_path / f"{number}.dcm"
        shutil.copy(folder / "a" / "1.dcm", path)
        dataset = pydicom.dcmread(path)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID(uid)
        dataset.save_as(path)
        item = inspect(path)
        assert isinstance(item, Item)
        items.append(item)
    outcomes: list[Outcome] = []
    try:
        send(items, Target("ANY", "127.0.0.1", port), calling="TEST", done=outcomes.append)
    finally:
        server.shutdown()
    assert [o.words for o in outcomes if not o.sent] == []
    assert len(outcomes) == len(classes) > 128


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0xA701, "refused: out of resources (0xA701)"),
        (0xA900, "error: the data set does not match the class (0xA900)"),
        (0xC123, "error: cannot understand (0xC123)"),
        (0x0122, "refused: class not supported (0x0122)"),
        (0x0110, "failed (0x0110)"),
    ],
)
def test_a_status_is_said_in_words(status: int, words: str) -> None:
    assert status_words(status, "") == words
    assert status_words(status, "why") == f"{words}: why"
