"""No C-STORE response leaves before everything that it promises is synced: the kernel's own record of the order."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from sys import executable

import pytest

from hilum.testing.dicom_files import write
from hilum.testing.external import Process, need
from hilum_listener.testing import EXPLICIT
from hilum_listener.testing_scp import associate, small_image
from hilum_listener.testing_strace import OPTIONS, Call, answers, calls, too_early

pytestmark = pytest.mark.timeout(300)


def send(port: int, folder: Path, sender: str, count: int) -> None:
    association = associate(port, sop_class=str(small_image("x").SOPClassUID), syntax=EXPLICIT)
    for number in range(count):
        path = write(folder / f"{sender}-{number}.dcm", small_image(f"{sender}-{number}"))
        assert association.send_c_store(str(path)).Status == 0x0000
    association.release()


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Call]]:
    """A new data folder; three instances over one association, then three over each of four at once."""
    strace = need("strace", install="strace")
    data, log = tmp_path_factory.mktemp("traced"), tmp_path_factory.mktemp("log")
    command: list[str | Path] = [strace, *OPTIONS, "-o", log / "strace", executable, "-m", "hilum_listener", "scp"]
    port_file = data / "run" / "scp.port"
    running = Process([*command, "--data", data, "--port", "0"], log=log / "scp.log")
    with running.wait_until(port_file.exists, timeout_s=120):
        port = int(port_file.read_text())
        send(port, log, "alone", 3)
        threads = [threading.Thread(target=send, args=(port, log, f"with-others-{n}", 3)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return data, calls((log / "strace").read_text().splitlines())


def test_no_answer_leaves_before_file_folders_and_journal_are_synced(trace: tuple[Path, list[Call]]) -> None:
    data, seen = trace
    assert len({answer.sop_instance_uid for answer in answers(seen)}) == 15
    assert too_early(data, seen) == []


def is_file(call: Call, data: Path) -> bool:
    return call.file.endswith(".dcm")


def is_folder_of_files(call: Call, data: Path) -> bool:
    return Path(call.file).parent == data / "spool" and len(Path(call.file).name) == 2


def is_journal(call: Call, data: Path) -> bool:
    return Path(call.file).parent == data / "spool" / "journal"


def is_folder_of_journals(call: Call, data: Path) -> bool:
    return Path(call.file) == data / "spool" / "journal"


def is_spool(call: Call, data: Path) -> bool:
    return Path(call.file) == data / "spool"


@pytest.mark.parametrize(
    ("left_out", "complaint"),
    [
        (is_file, "its data was not synced before its entry was written"),
        (is_folder_of_files, "the folder of its file was not synced"),
        (is_journal, "its journal entry was not synced"),
        (is_folder_of_journals, "the folder of its journal was not synced"),
        (is_spool, "the folder above that of its file was not synced"),
    ],
)
def test_the_check_notices_each_sync_that_is_left_out(
    trace: tuple[Path, list[Call]], left_out: Callable[[Call, Path], bool], complaint: str
) -> None:
    data, seen = trace
    rest = [call for call in seen if not (call.name in ("fsync", "fdatasync") and left_out(call, data))]
    assert len(rest) < len(seen)
    assert any(complaint in found for found in too_early(data, rest))


def test_the_check_notices_a_sync_that_ends_after_the_answer_has_begun(trace: tuple[Path, list[Call]]) -> None:
    data, seen = trace
    late = [
        Call(call.name, call.begin, 1 << 60, call.file, call.strings) if is_journal(call, data) and "sync" in call.name
        else call for call in seen
    ]  # fmt: skip
    assert len(too_early(data, late)) >= len(answers(seen))


def test_no_path_names_a_uid_or_a_patient(trace: tuple[Path, list[Call]]) -> None:
    data, _ = trace
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(data) for name in names]
    uid = str(small_image("alone-0").SOPInstanceUID)
    assert len(paths) > 15
    assert [path for path in paths if uid in path or "Test" in path or "T-1" in path or "TESTSCU" in path] == []
