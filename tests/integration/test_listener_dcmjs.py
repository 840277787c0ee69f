"""The normalized services, met by dcmjs-dimse: an SCU, and a port for reports, that share no code with pynetdicom."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from sys import executable
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom.uid import ExplicitVRLittleEndian

from hilum.adapters.dicom.requests import hold_reactor
from hilum.adapters.sql.database import database_path, open_database, reading
from hilum.adapters.sql.schema import migrate
from hilum.adapters.sql.tables import commitment_requests, revisions
from hilum.domain.identity import derive_uid
from hilum.testing.external import Process, free_port, missing, need, wait_until
from hilum_listener.handlers.commitment import MODEL_INSTANCE
from hilum_listener.testing_scp import Running, small_image, start_scp
from hilum_listener.testing_services import AVAILABILITY, COMMITMENT, MPPS, associated

CR = "1.2.840.10008.5.1.4.1.1.1"
SCRIPT = Path(__file__).parents[1] / "tools" / "dcmjs" / "scu.js"


def modality(port: int, *requests: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Sends them as AE title MODALITY on one association; what was answered, and what was reported."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hilum"
    folders = sorted(path for path in cache.glob("dcmjs-dimse-*") if path.suffix != ".part")
    if not folders:
        missing("dcmjs-dimse", "tests/tools/install-dcmjs (needs npm)")
    task = {"port": port, "calling": "MODALITY", "requests": requests} | options
    command = [need("node", install="nodejs"), str(SCRIPT), json.dumps(task)]
    done = subprocess.run(command, cwd=folders[-1], capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def statuses(said: dict[str, Any]) -> list[int]:
    return [answer["status"] for answer in said["answers"]]


def step(service: str, uid: str, **dataset: Any) -> dict[str, Any]:
    return {"service": service, "sop_class": MPPS, "sop_instance": uid, "dataset": dataset}


def begins(uid: str) -> dict[str, Any]:
    study = derive_uid("test-study", "it")
    scheduled = [{"StudyInstanceUID": study, "AccessionNumber": "A1"}]
    return step(
        "N-CREATE",
        uid,
        ScheduledStepAttributesSequence=scheduled,
        PatientName="Test^Case",
        PerformedProcedureStepStatus="IN PROGRESS",
        PerformedProcedureStepID="P1",
        Modality="CR",
    )


def ends(uid: str, *names: str) -> dict[str, Any]:
    images = [{"ReferencedSOPClassUID": CR, "ReferencedSOPInstanceUID": uid_of(name)} for name in names]
    series = [{"SeriesInstanceUID": "1.2.3", "ReferencedImageSequence": images}]
    return step("N-SET", uid, PerformedProcedureStepStatus="COMPLETED", PerformedSeriesSequence=series)


def asks(transaction: str, *names: str) -> dict[str, Any]:
    references = [{"ReferencedSOPClassUID": CR, "ReferencedSOPInstanceUID": uid_of(name)} for name in names]
    dataset = {"TransactionUID": derive_uid("transaction", transaction), "ReferencedSOPSequence": references}
    return {
        "service": "N-ACTION", "sop_class": COMMITMENT, "sop_instance": MODEL_INSTANCE, "action": 1, "dataset": dataset,
    }  # fmt: skip


def uid_of(name: str) -> str:
    return str(small_image(name).SOPInstanceUID)


class Site:
    def __init__(self, data: Path) -> None:
        self.port = free_port()
        config = (
            "[listener]\narchive = true\nquiet_time_s = 600\n"
            f'[[peers]]\nae_title = "MODALITY"\nhost = "127.0.0.1"\nport = {self.port}\n'
        )
        self.engine = open_database(database_path(data))
        migrate(self.engine)
        self.scp: Running = start_scp(data, config=config)
        command: list[str | Path] = [executable, "-m", "hilum_listener", "assemble", "commit", "--data", data]
        self.index = Process([*command, "--config", data / "hilum.toml"], log=data / "index.log")

    def reasons(self) -> list[str]:
        with reading(self.engine) as connection:
            return list(connection.execute(sa.select(revisions.c.reason)).scalars())

    def delivered(self) -> bool:
        with reading(self.engine) as connection:
            return list(connection.execute(sa.select(commitment_requests.c.state)).scalars()) == ["delivered"]

    def store(self, name: str) -> None:
        with associated(self.scp.port, [CR]) as association:
            hold_reactor(association)
            assert association.send_c_store(explicit(name)).Status == 0x0000

    def stop(self) -> None:
        self.scp.process.stop()
        self.index.stop()
        self.engine.dispose()


def explicit(name: str) -> Any:
    image = small_image(name)
    image.ensure_file_meta()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return image


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path)
    yield found
    found.stop()


def test_a_step_is_created_once_ends_once_and_completes_its_study(site: Site) -> None:
    uid = derive_uid("step", "dcmjs")
    site.store("1")
    said = modality(site.scp.port, begins(uid), begins(uid), ends(derive_uid("step", "unknown"), "1"))
    assert statuses(said) == [0x0000, 0x0111, 0x0112]
    said = modality(site.scp.port, ends(uid, "1"), ends(uid, "1"))
    assert statuses(said) == [0x0000, 0x0110]
    wait_until(lambda: len(site.reasons()) == 1, timeout_s=60, what="a complete study")
    assert site.reasons() == ["the procedure step is completed, its one image is here"]


def test_a_notification_completes_its_study(site: Site) -> None:
    site.store("1")
    reference = {"ReferencedSOPClassUID": CR, "ReferencedSOPInstanceUID": uid_of("1"), "InstanceAvailability": "ONLINE"}
    notice = {
        "StudyInstanceUID": str(small_image("1").StudyInstanceUID),
        "ReferencedSeriesSequence": [{"SeriesInstanceUID": "1.2.3", "ReferencedSOPSequence": [reference]}],
    }
    request = {"service": "N-CREATE", "sop_class": AVAILABILITY, "sop_instance": "1.2.9", "dataset": notice}
    assert statuses(modality(site.scp.port, request)) == [0x0000]
    wait_until(lambda: len(site.reasons()) == 1, timeout_s=60, what="a complete study")


def test_the_report_comes_on_the_association_that_asked(site: Site) -> None:
    site.store("here")
    said = modality(site.scp.port, asks("t", "here", "nowhere"), linger_ms=6000)
    assert statuses(said) == [0x0000]
    (report,) = said["reports"]
    _check(report, ["here"], ["nowhere"])
    wait_until(site.delivered, timeout_s=30, what="delivery")


def test_the_report_comes_to_the_port_of_a_modality_that_has_released_its_association(site: Site) -> None:
    site.store("here")
    said = modality(site.scp.port, asks("t", "here"), listen=site.port)
    assert statuses(said) == [0x0000]
    (report,) = said["reports"]
    _check(report, ["here"], [])
    wait_until(site.delivered, timeout_s=30, what="delivery")


def _check(report: dict[str, Any], committed: list[str], failed: list[str]) -> None:
    dataset = report["dataset"]
    assert report["event"] == (2 if failed else 1)
    assert dataset["TransactionUID"] == derive_uid("transaction", "t")
    assert _uids(dataset.get("ReferencedSOPSequence")) == [uid_of(name) for name in committed]
    assert _uids(dataset.get("FailedSOPSequence")) == [uid_of(name) for name in failed]


def _uids(sequence: Any) -> list[str]:
    items = sequence if isinstance(sequence, list) else [sequence] if sequence else []
    return [item["ReferencedSOPInstanceUID"] for item in items]
