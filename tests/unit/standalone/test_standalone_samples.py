"""The sample studies: what is in their files."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import UID, JPEG2000Lossless, RLELossless

from hilum.adapters.dicom.header import read_header
from hilum_standalone.samples import Image, Order, SampleStudy, radiograph, sample_studies

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[SampleStudy]:
    return list(sample_studies(tmp_path_factory.mktemp("samples"), run="one", now=NOW, mean_side=96))


def order(**changes: str) -> Order:
    values = {"study_instance_uid": "1.2.3", "patient_name": "Sample^A", "patient_id": "1", "birth_date": "19700101"}
    return Order(**{**values, "sex": "F", "accession_number": "A1", "description": "Chest", **changes}, taken_at=NOW)


def test_there_are_at_least_eight_studies_of_what_the_demo_promises(studies: list[SampleStudy]) -> None:
    headers = [read_header(file) for study in studies for file in study.files]
    assert len(studies) >= 8
    assert {"CR", "DX", "CT", "MR", "US"} <= {h.modality for h in headers}
    assert "MONOCHROME1" in {h.photometric for h in headers}
    assert {str(JPEG2000Lossless), str(RLELossless)} <= {h.transfer_syntax_uid for h in headers}
    assert "STAT" in {h.order_priority_term for h in headers}
    assert max(h.frames for h in headers) > 1
    assert 2 in {len(study.files) for study in studies}
    assert "nothing" in {study.holds for study in studies}


def test_every_source_is_named_with_its_licence(studies: list[SampleStudy]) -> None:
    assert all("Apache-2.0" in study.source or "MIT" in study.source for study in studies)


def test_the_files_say_the_study_they_belong_to_and_share_no_uid(studies: list[SampleStudy]) -> None:
    headers = [(study, read_header(file)) for study in studies for file in study.files]
    assert all(h.study_instance_uid == study.study_instance_uid for study, h in headers)
    assert len({h.sop_instance_uid for _, h in headers}) == len(headers)
    assert all(pydicom.dcmread(f).pixel_array.size for study in studies for f in study.files)


def test_another_run_makes_new_studies_and_the_same_run_the_same(studies: list[SampleStudy], tmp_path: Path) -> None:
    first = next(sample_studies(tmp_path, run="one", now=NOW, mean_side=96))
    other = next(sample_studies(tmp_path, run="two", now=NOW, mean_side=96))
    assert first.study_instance_uid == studies[0].study_instance_uid != other.study_instance_uid
    assert first.files[0].read_bytes() == studies[0].files[0].read_bytes()


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", JPEG2000Lossless, RLELossless])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_white_stays_white_in_every_encoding(syntax: str, photometric: str, tmp_path: Path) -> None:
    pixels = np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(64, 48)
    image = Image(pixels, "CR", "MONOCHROME1" if photometric == "MONOCHROME1" else "MONOCHROME2", UID(syntax))
    radiograph(image, order()).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    read = pydicom.dcmread(tmp_path / "a.dcm")
    low = float(read.WindowCenter) - float(read.WindowWidth) / 2
    shade = (read.pixel_array.astype(np.float64) - low) / float(read.WindowWidth)
    shown = 1 - shade if photometric == "MONOCHROME1" else shade
    assert read.file_meta.TransferSyntaxUID == syntax
    assert np.abs(shown - pixels).max() < 0.001
