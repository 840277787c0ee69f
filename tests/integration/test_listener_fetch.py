"""The fetch process beside the others of the listener, and Orthanc as the archive: missing images, earlier studies."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from sys import executable
from typing import Any

import numpy as np
import pydicom
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.folder import FolderInstances
from hilum.adapters.sql.database import database_path, open_database, reading
from hilum.adapters.sql.schema import migrate
from hilum.adapters.sql.tables import instances, retrievals, revisions, studies
from hilum.domain.identity import derive_uid
from hilum.testing.dicom_files import chest_image, write
from hilum.testing.external import Process, free_port, wait_until
from hilum.testing.orthanc import Orthanc, dicomweb_plugin, orthanc
from hilum_listener.testing_fetch import study_uid
from hilum_listener.testing_scp import Running, dcmtk, start_scp
from hilum_listener.testing_services import MPPS, associated, step_begins, step_ends

PIXELS = np.arange(4096, dtype=np.uint16).reshape(64, 64)


@dataclass
class Site:
    """A data folder with its processes, and the archive that they ask."""

    data: Path
    engine: Engine
    scp: Running
    pacs: Orthanc
    fetch: Process

    def rows(self, table: sa.Table) -> list[Any]:
        with reading(self.engine) as connection:
            return list(connection.execute(sa.select(table)))

    def here(self, study: str) -> set[str]:
        uid = study_uid(study)
        return {row.sop_instance_uid for row in self.rows(instances) if row.study_instance_uid == uid}

    def reasons(self) -> list[str]:
        return [row.reason for row in self.rows(revisions)]

    def send(self, study: str, *numbers: int, **attributes: Any) -> None:
        paths = [write(self.data / f"{study}-{number}.dcm", image(study, number, **attributes)) for number in numbers]
        done = dcmtk("dcmsend", "-aet", "XRAY", "-aec", "HILUM", "127.0.0.1", str(self.scp.port), *paths)
        assert done.returncode == 0, done.stderr


def image(study: str, number: int, **attributes: Any) -> pydicom.Dataset:
    return chest_image(
        PIXELS, study=study, name=f"image-{number}", InstanceNumber=number, IssuerOfPatientID="HOSPITAL", **attributes
    )


def data_set(file: bytes) -> bytes:
    return file[144 + int.from_bytes(file[140:144], "little") :]  # PS3.10 7.1


def image_uid(study: str, number: int) -> str:
    return derive_uid("test-image", study, f"image-{number}")


def archive_section(pacs: Orthanc, retrieve: str) -> str:
    if retrieve == "wado-rs":
        place = f'kind = "dicomweb"\nurl = "{str(pacs.http.base_url).rstrip("/")}/dicom-web"'
    else:
        place = f'ae_title = "PACS"\nhost = "127.0.0.1"\nport = {pacs.dicom_port}'
    return f'[[archives]]\nname = "pacs"\n{place}\nretrieve = "{retrieve}"\ntimeout_s = 10\n'


@contextlib.contextmanager
def site(data: Path, retrieve: str, *, rules: str = "", fetch: str = "") -> Iterator[Site]:
    port = free_port()
    with orthanc(
        data / "pacs", plugins=[dicomweb_plugin()], modalities={"hilum": ("HILUM", "127.0.0.1", port)}
    ) as pacs:
        config = f"""[listener]
quiet_time_s = 2.0
[fetch]
grace_s = 1.0
first_retry_s = 1.0
{fetch}
{archive_section(pacs, retrieve)}
{rules}
"""
        engine = open_database(database_path(data))
        migrate(engine)
        common: list[str | Path] = ["--data", data, "--config", data / "hilum.toml"]
        with contextlib.ExitStack() as stack:
            scp = start_scp(data, config=config, port=port)
            stack.enter_context(scp.process)
            for roles in (["assemble"], ["fetch"]):
                command: list[str | Path] = [executable, "-m", "hilum_listener", *roles, *common]
                process = stack.enter_context(Process(command, log=data / f"{roles[0]}.log"))
                process.wait_until((data / "run" / f"{roles[0]}.ready").exists, timeout_s=60)
            yield Site(data, engine, scp, pacs, process)
        engine.dispose()


PRIORS = """[[rules]]
name = "chest"
modalities = ["CR"]
body_parts = ["CHEST"]
priors = 2
"""
WAYS = pytest.mark.parametrize("retrieve", ["c-get", "c-move", "wado-rs"])


@WAYS
def test_missing_images_come_from_the_archive_and_complete_the_study(tmp_path: Path, retrieve: str) -> None:
    with site(tmp_path, retrieve) as its:
        for number in (1, 2, 3):
            its.pacs.put(write(tmp_path / "held.dcm", image("study", number)))
        with associated(its.scp.port, [MPPS], calling="XRAY") as association:
            association.send_n_create(step_begins(), MPPS, "1.2.3.4")
            ended = step_ends([image("study", number) for number in (1, 2, 3)])
            association.send_n_set(ended, MPPS, "1.2.3.4")
        its.send("study", 2)
        wait_until(lambda: bool(its.reasons()), timeout_s=60, what="completion")
        assert its.reasons() == ["the procedure step is completed, its 3 images are all here"]
        wait_until(lambda: [row.state for row in its.rows(retrievals)] == ["done"], what="the end of the retrieval")
        assert [(row.kind, row.came) for row in its.rows(retrievals)] == [("missing", 2)]
        held = {str(pydicom.dcmread(io.BytesIO(file)).SOPInstanceUID): file for file in its.pacs.files()}
        store = FolderInstances(tmp_path / "spool")
        for stored in its.rows(instances):
            file = store.path(stored.uri).read_bytes()
            assert data_set(file) == data_set(held[stored.sop_instance_uid])
    assert list((tmp_path / "spool" / "incoming-fetch").iterdir()) == []


@WAYS
def test_earlier_studies_come_and_are_no_studies_of_their_own(tmp_path: Path, retrieve: str) -> None:
    with site(tmp_path, retrieve, rules=PRIORS) as its:
        for number in (1, 2):
            its.pacs.put(write(tmp_path / "held.dcm", image("last-year", number, StudyDate="20251103")))
        its.pacs.put(write(tmp_path / "held.dcm", image("foot", 1, StudyDate="20251103", BodyPartExamined="FOOT")))
        its.pacs.put(write(tmp_path / "held.dcm", image("other", 1, StudyDate="20251103", PatientID="T-2")))
        its.send("study", 1, StudyDate="20261124")
        wait_until(lambda: bool(its.reasons()), timeout_s=60, what="completion")
        assert its.reasons() == ["no image for 2 s; 1 of 1 earlier study is here"]
        assert its.here("last-year") == {image_uid("last-year", number) for number in (1, 2)}
        assert its.here("foot") == its.here("other") == set()
        assert [row.study_instance_uid for row in its.rows(studies)] == [study_uid("study")]
        its.send("last-year", 1, 2, StudyDate="20251103")
        wait_until(lambda: len(its.reasons()) == 2, timeout_s=60, what="the study that a modality sends")


def test_a_fetch_process_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    with site(tmp_path, "c-get", rules=PRIORS, fetch="lease_s = 1.0") as its:
        its.pacs.put(write(tmp_path / "held.dcm", image("last-year", 1, StudyDate="20251103")))
        its.fetch.kill()
        its.send("study", 1, StudyDate="20261124")
        wait_until(lambda: bool(its.rows(studies)), timeout_s=60)
        command: list[str | Path] = [executable, "-m", "hilum_listener", "fetch", "--data", tmp_path]
        command += ["--config", tmp_path / "hilum.toml"]
        with Process(command, log=tmp_path / "fetch.log") as again:
            again.wait_until(lambda: bool(its.reasons()), timeout_s=60)
            assert its.reasons() == ["no image for 2 s; 1 of 1 earlier study is here"]
            assert again.stop() == 0


def test_an_archive_that_is_away_holds_no_study_up(tmp_path: Path) -> None:
    with site(tmp_path, "c-get", rules=PRIORS, fetch="attempts = 2") as its:
        config = (tmp_path / "hilum.toml").read_text()
        (tmp_path / "hilum.toml").write_text(config.replace(f"port = {its.pacs.dicom_port}", f"port = {free_port()}"))
        its.fetch.stop()
        command: list[str | Path] = [executable, "-m", "hilum_listener", "fetch", "--data", tmp_path]
        command += ["--config", tmp_path / "hilum.toml"]
        with Process(command, log=tmp_path / "fetch.log"):
            its.send("study", 1)
            wait_until(lambda: bool(its.reasons()), timeout_s=60)
            assert "archive pacs: no association" in its.reasons()[0]
            assert "Test^Case" not in (tmp_path / "fetch.log").read_text()


def test_roles_that_receive_and_fetch_do_not_share_a_process(tmp_path: Path) -> None:
    command: list[str | Path] = [executable, "-m", "hilum_listener", "scp", "fetch", "--data", tmp_path]
    with Process(command, log=tmp_path / "both.log") as process:
        assert process.popen.wait(60) == 2
    assert "a process of its own" in (tmp_path / "both.log").read_text()
