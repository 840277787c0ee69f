"""What no SR validator finds (shared standards notes), and what Hilum promises of every report."""

import io
from collections.abc import Iterator
from dataclasses import replace

import pydicom
import pytest
from pydicom.dataset import Dataset

from hilum.domain.findings import Answer, Dropped
from hilum.domain.identity import Patient
from hilum.domain.results import Result
from hilum.testing import results as samples
from hilum_results.encode import sr

ONE = samples.image(1)
FRAMES = samples.image(2, sop_class=samples.MULTI_FRAME, frame=7, frames=12)


def full() -> Result:
    return samples.result(
        samples.findings(
            [samples.finding("Nodule", 1, on=ONE, urgent=True), samples.finding("Odd label", 2, on=FRAMES)],
            images=[ONE, FRAMES],
            report="First line.\nSecond line.",
            answers=[Answer("Is there a fracture?", "No.")],
            ungrounded=["Pleural effusion"],
            dropped=[Dropped("Fracture", "too uncertain")],
        ),
        predecessor=("1.2.3", "1.2"),
    )


def read(result: Result) -> Dataset:
    return pydicom.dcmread(io.BytesIO(sr.encode(result)))


def walk(item: Dataset) -> Iterator[Dataset]:
    yield item
    for child in item.get("ContentSequence", []):
        yield from walk(child)


def named(item: Dataset, code: str) -> list[Dataset]:
    return [i for i in walk(item) if "ConceptNameCodeSequence" in i and i.ConceptNameCodeSequence[0].CodeValue == code]


def test_it_is_complete_preliminary_and_unverified() -> None:
    report = read(full())
    assert report.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    assert (report.CompletionFlag, report.PreliminaryFlag, report.VerificationFlag) == (
        "COMPLETE",
        "PRELIMINARY",
        "UNVERIFIED",
    )


def test_template_ids_procedure_and_device_observer_are_there() -> None:
    report = read(full())
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert named(report, "121058")[0].ConceptCodeSequence[0].CodeValue == "363679005"
    assert named(report, "121005")[0].ConceptCodeSequence[0].CodeValue == "121007"
    assert full().device_uid == named(report, "121012")[0].UID
    templates = [g.ContentTemplateSequence[0].TemplateIdentifier for g in named(report, "125007")]
    assert templates == ["1410", "1410"]


def test_each_group_has_its_own_tracking_uid_and_every_region_lies_inside_its_image() -> None:
    report = read(full())
    uids = [str(item.UID) for item in named(report, "112040")]
    assert len(set(uids)) == len(uids) == 2
    for region in named(report, "111030"):
        columns, rows = region.GraphicData[0::2], region.GraphicData[1::2]
        assert region.GraphicType == "POLYLINE"
        assert len(columns) == 5
        assert (columns[0], rows[0]) == (columns[4], rows[4])
        assert max(columns) <= ONE.columns
        assert max(rows) <= ONE.rows


def test_a_frame_is_named_only_where_the_image_has_several() -> None:
    first, second = (region.ContentSequence[0].ReferencedSOPSequence[0] for region in named(read(full()), "111030"))
    assert "ReferencedFrameNumber" not in first
    assert second.ReferencedFrameNumber == 7


def test_all_text_is_in_it_and_the_disclaimer_too() -> None:
    text = "\n".join(str(item.TextValue) for item in walk(read(full())) if "TextValue" in item)
    for part in ("First line.\r\nSecond line.", "Is there a fracture?", "No.", "too uncertain", "Pleural effusion"):
        assert part in text
    assert samples.NANO.disclaimer in text
    assert samples.NANO.digest in text


def test_no_finding_is_presence_absent_with_the_images_that_were_looked_at() -> None:
    report = read(samples.result(samples.findings([], images=[ONE, FRAMES])))
    assert named(report, "705057003")[0].ConceptCodeSequence[0].CodeValue == "2667000"
    group = named(report, "125007")[0]
    images = [
        i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in group.ContentSequence if i.ValueType == "IMAGE"
    ]
    assert images == [ONE.sop_instance_uid, FRAMES.sop_instance_uid]


def test_evidence_device_predecessor_and_order_are_in_the_header() -> None:
    report = read(full())
    series = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert len(series.ReferencedSOPSequence) == 2
    assert len(report.ContributingEquipmentSequence) == 1
    assert report.ContributingEquipmentSequence[0].DeviceUID == full().device_uid
    previous = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert (previous.SeriesInstanceUID, previous.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) == ("1.2", "1.2.3")
    assert report.ReferencedRequestSequence[0].AccessionNumber == "A100"
    assert report.ReferencedRequestSequence[0].PlacerOrderNumberImagingServiceRequest == "P-1"


def test_uids_come_from_the_result_and_change_with_model_and_revision() -> None:
    same = read(full())
    assert same.SOPInstanceUID == full().sr_instance_uid == same.file_meta.MediaStorageSOPInstanceUID
    other_model = replace(samples.NANO, digest="ef" * 32)
    assert samples.result(samples.findings([], images=[ONE], model=other_model)).device_uid != full().device_uid
    assert samples.result(samples.findings([], images=[ONE], revision=2)).sr_instance_uid != full().sr_instance_uid


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Müller^Jürgen", "Müller^Jürgen"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("A\\B^C|D&E~F", "A/B^C|D&E~F"),
        ("^^^^^", ""),
        ("a^b^c^d^e^f=x=y=z", "a^b^c^d^e f=x=y"),
    ],
)
def test_names_in_any_script_are_utf8_and_stay_one_value(name: str, written: str) -> None:
    report = read(replace(full(), header=replace(samples.HEADER, patient=Patient("1", "", name, "", ""))))
    assert report.SpecificCharacterSet == "ISO_IR 192"
    assert str(report.PatientName) == written


def test_a_patient_id_is_never_shortened() -> None:
    long = "9" * 80
    report = read(replace(full(), header=replace(samples.HEADER, patient=Patient(long))))
    assert report.PatientID == long
