"""Every kind of source: its SR passes every offline SR validator, and agrees with the image it is about.

The images are pydicom's own and PyPI pydicom-data's; the DX is RG3 under the DX class, since no public set has one.
"""

import subprocess
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_charset_files, get_testdata_file
from pydicom.uid import UID

from hilum.adapters.dicom.header import read_header
from hilum.domain.findings import Answer, Dropped, Finding
from hilum.domain.geometry import PixelBox
from hilum.domain.identity import Patient, derive_uid
from hilum.domain.inference import ImageReference
from hilum.testing import results as samples
from hilum.testing.external import missing, need
from hilum_results.encode import sr

SR_VALIDATE = Path(__file__).parents[1] / "tools" / "sr-validate"
PIXELMED = Path("/usr/share/java/pixelmed.jar")


def source(name: str) -> Path:
    path = next(iter(get_charset_files(name)), None) or get_testdata_file(name, download=False)
    assert isinstance(path, str), f"{name} is not in the installed pydicom-data"
    return Path(path)


def as_dx(path: Path, folder: Path) -> Path:
    dataset = pydicom.dcmread(path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = UID(samples.DX)
    dataset.Modality = "DX"
    written = folder / "dx.dcm"
    dataset.save_as(written)
    return written


@pytest.fixture
def validators() -> None:
    for program, package in (("dciodvfy", "dicom3tools"), ("dsrdump", "dcmtk"), ("java", "default-jre-headless")):
        need(program, install=package)
    if not PIXELMED.exists():
        missing("pixelmed.jar", "apt-get install libpixelmed-java")


def validate(report: Path, *, of: Path | None = None) -> None:
    command = [SR_VALIDATE, *(("--source", of) if of else ()), report]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for tool in ("dciodvfy", "dsrdump", "DicomSRValidator"):
        assert f"{tool} ok" in done.stdout.replace(": ", " ")


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("validators")
@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("RG1_UNCR.dcm", ("Nodule", "Fractures", "Something new")),  # CR, MONOCHROME1
        ("RG3_J2KR.dcm", ("Pneumothorax",)),  # CR, JPEG 2000
        ("DX", ("Cardiomegaly",)),
        ("emri_small.dcm", ("Nodule",)),  # ten frames
        ("color3d_jpeg_baseline.dcm", ("Nodule",)),  # 120 frames, lossy, colour
        ("RG1_UNCR.dcm", ()),  # no finding
        ("chrJapMulti.dcm", ("Consolidation",)),  # ISO 2022 name in three groups
    ],
)
def test_the_sr_of_a_real_image_passes_every_validator(name: str, labels: tuple[str, ...], tmp_path: Path) -> None:
    path = as_dx(source("RG3_UNCR.dcm"), tmp_path) if name == "DX" else source(name)
    header = read_header(path)
    frames = max(header.frames, 1)
    image = ImageReference(
        header.series_instance_uid,
        header.sop_instance_uid,
        header.sop_class_uid,
        "spool:x",
        frame=(frames + 1) // 2,
        frames=frames,
        rows=header.rows or 32,  # the charset files have no pixels
        columns=header.columns or 32,
    )
    box = PixelBox(image.columns * 0.1, image.rows * 0.2, image.columns * 0.333, image.rows)
    study_uid = header.study_instance_uid
    found = [Finding(x, box, image, 0.8, x == "Pneumothorax", derive_uid("t", study_uid, x)) for x in labels]
    result = samples.result(
        samples.findings(found, images=[image], study_instance_uid=study_uid, report="Line one.\nLine two."),
        header=header.study,
    )
    report = tmp_path / "sr.dcm"
    report.write_bytes(sr.encode(result))
    # dcentvfy compares bytes, so it cannot see that the same name in another character set is the same name.
    source_image, written = pydicom.dcmread(path, stop_before_pixels=True), pydicom.dcmread(report)
    multi_byte = "ISO 2022" in str(source_image.get("SpecificCharacterSet", ""))
    validate(report, of=None if multi_byte else path)
    assert str(written.PatientName) == str(source_image.get("PatientName", ""))


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("validators")
def test_labels_without_a_region_alone_pass_every_validator(tmp_path: Path) -> None:
    of = samples.findings([], images=[samples.image(1)], report="Text.", ungrounded=["Nodule", "Something new"])
    report = tmp_path / "sr.dcm"
    report.write_bytes(sr.encode(samples.result(of)))
    validate(report)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("validators")
def test_a_report_with_everything_in_it_passes_every_validator(tmp_path: Path) -> None:
    one = samples.image(1)
    result = samples.result(
        samples.findings(
            [samples.finding("Nodule", 1, on=one, urgent=True)],
            images=[one, samples.image(2, sop_class=samples.CR)],
            report="Line | one ^ & ~ \\ end.\n\n<b>Line</b> three.",
            answers=[Answer("Is there a fracture?", "No."), Answer("Is there a tube?", "Yes.")],
            ungrounded=["Pleural effusion", "Something new"],
            dropped=[Dropped("Fracture", "probability 0.10 is below the threshold 0.30")],
        ),
        header=replace(
            samples.HEADER, patient=Patient("47\\11", "WARD", "O'Neil\\Bell|&~^Anna=山田^太郎", "19700131", "O")
        ),
        predecessor=(derive_uid("old"), derive_uid("old-series")),
    )
    report = tmp_path / "sr.dcm"
    report.write_bytes(sr.encode(result))
    validate(report)
