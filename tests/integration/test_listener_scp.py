"""The receiving process, met by DCMTK's programs and by pynetdicom, and killed while it receives."""

import random
import subprocess
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from sys import executable

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import UID
from pynetdicom.dimse_primitives import C_STORE

from hilum.adapters.folder import FolderInstances
from hilum.testing.dicom_files import write
from hilum.testing.external import Process, free_port
from hilum_listener.handlers.journal import AssociationChanged
from hilum_listener.testing import encoded_dataset
from hilum_listener.testing_scp import Running, associate, dcmtk, small_image, start_scp

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@pytest.fixture(scope="module")
def scp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start_scp(tmp_path_factory.mktemp("scp"))
    with running.process:
        yield running


def test_an_echo_is_answered(scp: Running) -> None:
    assert dcmtk("echoscu", "-aec", "HILUM", "127.0.0.1", str(scp.port)).returncode == 0


def test_another_called_ae_title_is_refused_with_the_standard_reason(scp: Running) -> None:
    for wrong in ("hilum", "HILUM2"):
        result = dcmtk("echoscu", "-aec", wrong, "127.0.0.1", str(scp.port))
        assert result.returncode != 0
        assert "Called AE Title Not Recognized" in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("CT_small.dcm", "-xe"),
        ("MR_small.dcm", "-xi"),
        ("MR_small_bigendian.dcm", "-xb"),
        ("MR_small_RLE.dcm", "-xr"),
        ("JPEG2000.dcm", "-xw"),
        ("MR_small_jp2klossless.dcm", "-xv"),
        ("SC_rgb_jpeg_dcmtk.dcm", "-xy"),
        ("JPEG-LL.dcm", "-xs"),
        ("JPEGLSNearLossless_08.dcm", "-xu"),
        ("image_dfl.dcm", "-xd"),
    ],
)
def test_what_storescu_sends_in_any_transfer_syntax_is_stored_with_its_pixels(
    scp: Running, name: str, option: str
) -> None:
    path = Path(str(get_testdata_file(name)))
    result = dcmtk("storescu", option, "-aec", "HILUM", "127.0.0.1", str(scp.port), path)
    assert result.returncode == 0, result.stderr[-500:]
    sent = dcmread(path, stop_before_pixels=True)
    stored = scp.stored(sent.SOPInstanceUID)
    syntax = IMPLICIT if option == "-xi" else sent.file_meta.TransferSyntaxUID
    assert dcmread(stored, stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax
    assert dcmread(stored).PixelData == dcmread(path).PixelData


def test_dcmsend_stores_a_folder(scp: Running, tmp_path: Path) -> None:
    names = [f"dcmsend-{n}" for n in range(20)]
    for name in names:
        write(tmp_path / f"{name}.dcm", small_image(name))
    result = dcmtk("dcmsend", "-aec", "HILUM", "+sd", "127.0.0.1", str(scp.port), tmp_path)
    assert result.returncode == 0
    assert all(scp.stored(small_image(name).SOPInstanceUID).exists() for name in names)


@pytest.mark.parametrize(
    ("sop_class", "syntax"),
    [
        (SECONDARY_CAPTURE, EXPLICIT),
        ("1.3.12.2.1107.5.9.1", EXPLICIT),  # a vendor's private class
        ("1.2.840.10008.5.1.4.1.1.9999", EXPLICIT),  # a public class of a later edition
        (SECONDARY_CAPTURE, "1.2.840.10008.1.2.4.201"),  # HTJ2K
        (SECONDARY_CAPTURE, "1.2.840.10008.1.2.4.112"),  # JPEG XL
        (SECONDARY_CAPTURE, "1.2.840.113619.5.2"),  # a vendor's private syntax
    ],
)
def test_any_storage_class_in_any_syntax_is_stored_bit_for_bit(
    scp: Running, tmp_path: Path, sop_class: str, syntax: str
) -> None:
    dataset = small_image(f"{sop_class}-{syntax}", SOPClassUID=UID(sop_class))
    encoded = encoded_dataset(write(tmp_path / "x.dcm", dataset))
    assert send_raw(scp.port, dataset, encoded, syntax=syntax) == 0x0000
    stored = scp.stored(dataset.SOPInstanceUID)
    assert encoded_dataset(stored) == encoded
    meta = dcmread(stored, stop_before_pixels=True, force=True).file_meta
    assert (meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID) == (sop_class, syntax)


def send_raw(port: int, dataset: Dataset, encoded: bytes, *, syntax: str, sop_uid: str = "") -> int:
    """Sends these bytes as the data set; the status, or -1 when no association came about."""
    association = associate(port, sop_class=str(dataset.SOPClassUID), syntax=syntax)
    if not association.is_established:
        return -1
    request = C_STORE()
    request.MessageID = 1
    request.AffectedSOPClassUID = dataset.SOPClassUID
    request.AffectedSOPInstanceUID = UID(sop_uid or dataset.SOPInstanceUID)
    request.Priority = 2
    request.DataSet = BytesIO(encoded)
    association._reactor_checkpoint.clear()
    association.dimse.send_msg(request, association.accepted_contexts[0].context_id or 1)
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    association.release()
    assert isinstance(response, C_STORE)
    assert response.Status is not None
    return response.Status


def test_a_data_set_of_another_instance_than_the_request_is_refused(scp: Running, tmp_path: Path) -> None:
    dataset = small_image("mismatch")
    encoded = encoded_dataset(write(tmp_path / "x.dcm", dataset))
    assert send_raw(scp.port, dataset, encoded, syntax=EXPLICIT, sop_uid="1.2.3.4.5") == 0xA900
    assert all(entry.sop_instance_uid != "1.2.3.4.5" for entry in scp.received())


def test_bytes_that_are_no_data_set_are_kept_and_the_listener_goes_on(scp: Running) -> None:
    dataset = small_image("garbage")
    assert send_raw(scp.port, dataset, b"\xfe\xff" * 333, syntax=EXPLICIT) == 0x0000
    assert encoded_dataset(scp.stored(dataset.SOPInstanceUID)) == b"\xfe\xff" * 333
    assert dcmtk("echoscu", "-aec", "HILUM", "127.0.0.1", str(scp.port)).returncode == 0


def test_the_journal_notes_how_each_association_ended(scp: Running) -> None:
    association = associate(scp.port, sop_class=SECONDARY_CAPTURE, syntax=EXPLICIT, calling="ABORTER")
    association.abort()
    deadline = time.monotonic() + 10
    changes: list[str] = []
    while changes != ["opened", "aborted"] and time.monotonic() < deadline:
        time.sleep(0.05)
        changes = [e.change for e in scp.entries() if isinstance(e, AssociationChanged) and e.calling_ae == "ABORTER"]
    assert changes == ["opened", "aborted"]


def test_no_log_line_names_a_patient(scp: Running) -> None:
    assert scp.received()
    log = (scp.data / "scp.log").read_text()
    assert '"listening"' in log
    assert "Test^Case" not in log
    assert "T-1" not in log


def test_with_peers_only_they_are_served(tmp_path: Path) -> None:
    running = start_scp(tmp_path, config='[[peers]]\nae_title = "CT1"\nhost = "127.0.0.1"\n')
    with running.process:
        assert dcmtk("echoscu", "-aet", "CT1", "-aec", "HILUM", "127.0.0.1", str(running.port)).returncode == 0
        refused = dcmtk("echoscu", "-aet", "CT2", "-aec", "HILUM", "127.0.0.1", str(running.port))
        assert "Calling AE Title Not Recognized" in refused.stdout + refused.stderr


def test_sigterm_ends_it_within_ten_seconds_also_while_a_sender_idles(tmp_path: Path) -> None:
    running = start_scp(tmp_path)
    association = associate(running.port, sop_class=SECONDARY_CAPTURE, syntax=EXPLICIT)
    assert association.is_established
    begin = time.monotonic()
    assert running.process.stop() == 0
    assert time.monotonic() - begin < 10


def test_a_second_process_for_the_same_folder_does_not_start(tmp_path: Path) -> None:
    running = start_scp(tmp_path)
    with running.process:
        command = [executable, "-m", "hilum_listener", "scp", "--data", tmp_path, "--port", str(free_port())]
        second = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == 2
        assert "another receiving process" in second.stderr


@pytest.mark.slow
def test_what_was_acknowledged_is_there_whenever_the_process_is_killed(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    dice = random.Random(20261124)
    for turn in range(8):
        running = start_scp(tmp_path)
        assert list((tmp_path / "spool" / "incoming").iterdir()) == []
        association = associate(running.port, sop_class=str(small_image("x").SOPClassUID), syntax=EXPLICIT)
        kill_at = time.monotonic() + dice.uniform(0.05, 0.6)
        number = 0
        killer = _kill_at(running.process, kill_at)
        while association.is_established and number < 400:
            dataset = small_image(f"kill-{turn}-{number}")
            write(tmp_path / "k.dcm", dataset)
            try:
                status = association.send_c_store(str(tmp_path / "k.dcm"))
            except (RuntimeError, ValueError):
                break
            if "Status" not in status or status.Status != 0x0000:
                break
            acknowledged.append(str(dataset.SOPInstanceUID))
            number += 1
        killer.join()
        running.process.stop()
    journaled = {entry.sop_instance_uid: entry for entry in running.received()}
    assert len(acknowledged) > 8
    assert [uid for uid in acknowledged if uid not in journaled] == []
    for uid in acknowledged:
        entry = journaled[uid]
        path = FolderInstances(tmp_path / "spool").path(entry.uri)
        assert path.stat().st_size == entry.size
        assert dcmread(path).SOPInstanceUID == uid


def _kill_at(process: Process, when: float) -> threading.Thread:
    def kill() -> None:
        time.sleep(max(0.0, when - time.monotonic()))
        process.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    return thread
