"""Orthanc as the archive that Hilum asks: counts, earlier studies, and files that are missing here."""

import errno
import io
import time
from collections.abc import Iterator, Sequence
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
from hilum.runtime.config import DicomArchive, DicomwebArchive
from hilum.testing.dicom_files import chest_image, write
from hilum.testing.external import Process, free_port
from hilum.testing.orthanc import Orthanc, dicomweb_plugin, orthanc
from hilum_listener.handlers.archive import Archive, Fetched, Held, missing
from hilum_listener.handlers.arrivals import FetchedInstances
from hilum_listener.handlers.journal import JournalWriter
from hilum_listener.handlers.spool import Spool
from hilum_listener.handlers.stow import Draft
from hilum_listener.settings import Places
from hilum_listener.testing import START
from hilum_listener.testing_scp import dcmtk, start_scp
from hilum_listener.transport.archive_dimse import DimseArchive
from hilum_listener.transport.archive_web import WebArchive

PIXELS = np.arange(4096, dtype=np.uint16).reshape(64, 64)


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("archive")
    with orthanc(folder, plugins=[dicomweb_plugin()]) as running:
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


@pytest.fixture(params=["c-get", "wado-rs"])
def archive(pacs: Orthanc, request: pytest.FixtureRequest) -> DimseArchive | WebArchive:
    if request.param == "wado-rs":
        return WebArchive(DicomwebArchive(name="pacs", kind="dicomweb", url=web_url(pacs), retrieve="wado-rs"))
    return DimseArchive(configured(pacs.dicom_port), calling_ae="HILUM")


def configured(port: int) -> DicomArchive:
    return DicomArchive(name="pacs", ae_title="PACS", host="127.0.0.1", port=port, timeout_s=10)


def web_url(pacs: Orthanc) -> str:
    return f"{str(pacs.http.base_url).rstrip('/')}/dicom-web"


class Kept:
    """Arrivals as the fetch role takes them, and the files that they became."""

    def __init__(self, data: Path, study: str, wanted: Sequence[Held], *, limit_bytes: int = 1 << 30) -> None:
        self.places = Places(data)
        self.arrivals = FetchedInstances(
            Spool(self.places, min_free_bytes=0),
            JournalWriter(self.places.journal, started_at=START),
            lambda: START,
            study_instance_uid=study,
            wanted=frozenset(item.sop_instance_uid for item in wanted),
            limit_bytes=limit_bytes,
            calling_ae="PACS",
            association="fetch-prior-1",
            alive=lambda: True,
        )

    def files(self) -> dict[str, bytes]:
        found = [path.read_bytes() for path in self.places.spool.glob("??/*.dcm") if path.stat().st_size]
        return {str(pydicom.dcmread(io.BytesIO(file)).SOPInstanceUID): file for file in found}


class Refusing:
    """Arrivals that a full disk meets."""

    full = False

    def take(self, fetched: Fetched) -> int:
        return 0xA700

    def begin(self) -> Draft:
        raise OSError(errno.ENOSPC, "full")


def study_uid(name: str) -> str:
    return derive_uid("test-study", name)


def image_uid(study: str, number: int) -> str:
    return derive_uid("test-image", study, f"image-{number}")


def data_set(file: bytes) -> bytes:
    return file[144 + int.from_bytes(file[140:144], "little") :]  # PS3.10 7.1


def test_the_instances_of_a_study_are_listed(archive: Archive) -> None:
    held = archive.instances(study_uid("current"))
    assert {item.sop_instance_uid for item in held} == {image_uid("current", number) for number in (1, 2, 3)}
    assert {item.series_instance_uid for item in held} == {derive_uid("test-series", "current")}
    assert list(archive.instances("1.2.3.4")) == []


def test_earlier_studies_are_those_of_the_same_patient_and_issuer(archive: Archive) -> None:
    found = {study.study_instance_uid: study for study in archive.earlier("P-1", "HOSPITAL_A")}
    assert set(found) == {study_uid("current"), study_uid("last-year")}
    prior = found[study_uid("last-year")]
    assert prior.study_date == date(2025, 11, 3)
    assert (prior.modalities, prior.body_parts, prior.instances) == (frozenset({"CR"}), frozenset({"CHEST"}), 3)
    assert len(archive.earlier("P-1", "")) == 3
    with pytest.raises(Reject, match="wildcards"):
        archive.earlier("P-*", "")
    assert archive.earlier("", "") == ()


def test_what_is_missing_here_comes_from_the_archive_bit_for_bit(
    archive: Archive, pacs: Orthanc, tmp_path: Path
) -> None:
    wanted = missing(archive.instances(study_uid("current")), frozenset({image_uid("current", 2)}))
    kept = Kept(tmp_path, study_uid("current"), wanted)
    outcome = archive.fetch(study_uid("current"), wanted, kept.arrivals)
    assert (outcome.completed, outcome.failed) == (2, 0)
    assert set(kept.files()) == {image_uid("current", 1), image_uid("current", 3)}
    held = {str(pydicom.dcmread(io.BytesIO(file)).SOPInstanceUID): file for file in pacs.files()}
    for uid, file in kept.files().items():
        assert data_set(held[uid]) == data_set(file)
        if isinstance(archive, WebArchive):
            assert held[uid] == file, "a file that comes as one is kept as one"


def test_a_compressed_image_comes_as_the_archive_holds_it(archive: Archive, pacs: Orthanc, tmp_path: Path) -> None:
    original = pydicom.dcmread(str(get_testdata_file("JPEG2000.dcm")))
    held = archive.instances(str(original.StudyInstanceUID))
    kept = Kept(tmp_path, str(original.StudyInstanceUID), held)
    assert archive.fetch(str(original.StudyInstanceUID), held, kept.arrivals).completed == 1
    [file] = kept.files().values()
    fetched = pydicom.dcmread(io.BytesIO(file))
    assert fetched.file_meta.TransferSyntaxUID == original.file_meta.TransferSyntaxUID
    assert fetched.PixelData == original.PixelData


def test_what_hilum_could_not_keep_counts_as_failed(archive: Archive) -> None:
    held = archive.instances(study_uid("last-year"))
    outcome = archive.fetch(study_uid("last-year"), held, Refusing())
    assert (outcome.completed, outcome.failed) == (0, 3)


def test_what_the_archive_does_not_hold_any_more_is_refused_or_counts_as_failed(
    archive: Archive, tmp_path: Path
) -> None:
    held = archive.instances(study_uid("last-year"))
    gone = Held(held[0].series_instance_uid, "1.2.3", held[0].sop_class_uid)
    kept = Kept(tmp_path, study_uid("last-year"), [gone])
    if isinstance(archive, WebArchive):
        assert archive.fetch(study_uid("last-year"), [gone], kept.arrivals).failed == 1
    else:
        with pytest.raises(Reject, match="C-GET answered C000"):
            archive.fetch(study_uid("last-year"), [gone], kept.arrivals)
    assert kept.files() == {}


def test_no_more_is_taken_than_the_limit_of_bytes(archive: Archive, tmp_path: Path) -> None:
    held = archive.instances(study_uid("last-year"))
    kept = Kept(tmp_path, study_uid("last-year"), held, limit_bytes=12_000)
    outcome = archive.fetch(study_uid("last-year"), held, kept.arrivals)
    assert outcome.completed == 1
    assert kept.arrivals.over_limit
    assert len(kept.files()) == 1


def test_an_archive_whose_web_service_is_away_or_refuses_is_told_apart(pacs: Orthanc) -> None:
    for url, error, words in (
        (f"http://127.0.0.1:{free_port()}/dicom-web", Retry, "QIDO-RS broke off"),
        (f"{web_url(pacs)}/nowhere", Reject, "QIDO-RS answered 404"),
    ):
        with pytest.raises(error, match=words):
            WebArchive(DicomwebArchive(name="pacs", kind="dicomweb", url=url, timeout_s=5)).instances("1.2.3")


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
