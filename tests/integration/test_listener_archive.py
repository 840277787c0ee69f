"""Orthanc as the archive that Hilum asks: counts, earlier studies, and files that are missing here."""

import io
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from sys import executable

import numpy as np
import pydicom
import pytest
import sqlalchemy as sa
from pydicom.data import get_testdata_file

from hilum.adapters.sql.database import database_path, open_database, reading
from hilum.adapters.sql.schema import migrate
from hilum.adapters.sql.tables import revisions
from hilum.domain.errors import Reject, Retry
from hilum.domain.identity import derive_uid
from hilum.runtime.config import DicomArchive
from hilum.testing.dicom_files import chest_image, write
from hilum.testing.external import Process, free_port
from hilum.testing.orthanc import Orthanc, orthanc
from hilum_listener.handlers.archive import Fetched, Held, Store, missing
from hilum_listener.testing_scp import dcmtk, start_scp
from hilum_listener.transport.archive_dimse import DimseArchive

PIXELS = np.arange(4096, dtype=np.uint16).reshape(64, 64)


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("archive")
    with orthanc(folder) as running:
        for study, day, patient, issuer in (
            ("current", "20261124", "P-1", "HOSPITAL_A"),
            ("last-year", "20251103", "P-1", "HOSPITAL_A"),
            ("elsewhere", "20251004", "P-1", "HOSPITAL_B"),
            ("longer-id", "20251005", "P-10", "HOSPITAL_A"),
        ):
            for number in (1, 2, 3):
                sent = chest_image(
                    PIXELS, study=study, name=f"image-{number}", PatientID=patient, IssuerOfPatientID=issuer,
                    StudyDate=day, InstanceNumber=number,
                )  # fmt: skip
                running.put(write(folder / "sent.dcm", sent))
        running.put(Path(str(get_testdata_file("JPEG2000.dcm"))))
        yield running


@pytest.fixture
def archive(pacs: Orthanc) -> DimseArchive:
    return DimseArchive(configured(pacs.dicom_port), calling_ae="HILUM")


def configured(port: int) -> DicomArchive:
    return DicomArchive(name="pacs", ae_title="PACS", host="127.0.0.1", port=port, timeout_s=10)


def keeping() -> tuple[list[Fetched], Store]:
    """A store that takes everything, and what it took."""
    kept: list[Fetched] = []

    def keep(fetched: Fetched) -> int:
        kept.append(fetched)
        return 0

    return kept, keep


def study_uid(name: str) -> str:
    return derive_uid("test-study", name)


def image_uid(study: str, number: int) -> str:
    return derive_uid("test-image", study, f"image-{number}")


def test_the_instances_of_a_study_are_listed(archive: DimseArchive) -> None:
    held = archive.instances(study_uid("current"))
    assert {item.sop_instance_uid for item in held} == {image_uid("current", number) for number in (1, 2, 3)}
    assert {item.series_instance_uid for item in held} == {derive_uid("test-series", "current")}
    assert archive.instances("1.2.3.4") == []


def test_earlier_studies_are_those_of_the_same_patient_and_issuer(archive: DimseArchive) -> None:
    found = {study.study_instance_uid: study for study in archive.earlier("P-1", "HOSPITAL_A")}
    assert set(found) == {study_uid("current"), study_uid("last-year")}
    prior = found[study_uid("last-year")]
    assert prior.study_date == date(2025, 11, 3)
    assert (prior.modalities, prior.body_parts, prior.instances) == (frozenset({"CR"}), frozenset({"CHEST"}), 3)
    assert len(archive.earlier("P-1", "")) == 3
    with pytest.raises(Reject, match="wildcards"):
        archive.earlier("P-*", "")
    assert archive.earlier("", "") == ()


def test_what_is_missing_here_comes_from_the_archive_bit_for_bit(archive: DimseArchive, pacs: Orthanc) -> None:
    wanted = missing(archive.instances(study_uid("current")), frozenset({image_uid("current", 2)}))
    kept, keep = keeping()
    outcome = archive.fetch(study_uid("current"), wanted, keep)
    assert (outcome.completed, outcome.failed) == (2, 0)
    assert {item.sop_instance_uid for item in kept} == {image_uid("current", 1), image_uid("current", 3)}
    held = {pydicom.dcmread(io.BytesIO(file)).SOPInstanceUID: file for file in pacs.files()}
    for item in kept:
        assert held[pydicom.uid.UID(item.sop_instance_uid)].endswith(item.data_set)


def test_a_compressed_image_comes_as_the_archive_holds_it(archive: DimseArchive) -> None:
    original = pydicom.dcmread(str(get_testdata_file("JPEG2000.dcm")))
    held = archive.instances(str(original.StudyInstanceUID))
    kept, keep = keeping()
    outcome = archive.fetch(str(original.StudyInstanceUID), held, keep)
    assert outcome.completed == 1
    assert kept[0].data_set.endswith(original.PixelData[-1000:]) or original.PixelData[:1000] in kept[0].data_set


def test_what_hilum_could_not_keep_counts_as_failed(archive: DimseArchive) -> None:
    held = archive.instances(study_uid("last-year"))
    outcome = archive.fetch(study_uid("last-year"), held, lambda _fetched: 0xA700)
    assert (outcome.completed, outcome.failed) == (0, 3)
    gone = Held(held[0].series_instance_uid, "1.2.3", held[0].sop_class_uid)
    with pytest.raises(Reject, match="C-GET answered C000"):
        archive.fetch(study_uid("last-year"), [gone], lambda _fetched: 0)


def test_an_archive_that_is_away_is_asked_again_later() -> None:
    away = DimseArchive(configured(free_port()), calling_ae="HILUM")
    with pytest.raises(Retry, match="archive pacs: no association"):
        away.instances("1.2.3")


def test_a_study_is_complete_when_the_images_that_the_archive_counts_are_here(pacs: Orthanc, tmp_path: Path) -> None:
    config = f"""[listener]
quiet_time_s = 2.0
[[archives]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs.dicom_port}
"""
    engine = open_database(database_path(tmp_path))
    migrate(engine)
    scp = start_scp(tmp_path, config=config)
    command: list[str | Path] = [executable, "-m", "hilum_listener", "assemble", "--data", tmp_path]
    command += ["--config", tmp_path / "hilum.toml"]

    def reasons() -> list[str]:
        with reading(engine) as connection:
            return list(connection.execute(sa.select(revisions.c.reason)).scalars())

    def logged() -> str:
        return (tmp_path / "assemble.log").read_text()

    with scp.process, Process(command, log=tmp_path / "assemble.log") as assemble:
        send(scp.port, tmp_path, 1, 2)
        sent_s = time.monotonic()
        assemble.wait_until(lambda: '"archive counted"' in logged() and time.monotonic() > sent_s + 3, timeout_s=60)
        assert reasons() == []
        send(scp.port, tmp_path, 3)
        assemble.wait_until(lambda: bool(reasons()), timeout_s=60)
        assert reasons() == ["the archive was asked, its 3 images are all here"]
    engine.dispose()


def send(port: int, folder: Path, *numbers: int) -> None:
    for number in numbers:
        sent = chest_image(PIXELS, study="current", name=f"image-{number}", InstanceNumber=number)
        write(folder / f"{number}.dcm", sent)
    paths = [folder / f"{number}.dcm" for number in numbers]
    assert dcmtk("dcmsend", "-aec", "HILUM", "127.0.0.1", str(port), *paths).returncode == 0
