"""The answer's status and its Store Instances Response Module, in JSON and in XML."""

import json
from collections.abc import Sequence
from http import HTTPStatus
from xml.etree import ElementTree

import pytest
from pydicom import Dataset
from pydicom.datadict import keyword_for_tag

from hilum_listener.handlers.stow import Failure, Outcome, StoreWarning
from hilum_listener.handlers.stow_answer import JSON, XML, answer_type, encode, status_of

CT = "1.2.840.10008.5.1.4.1.1.2"
STORED = Outcome(CT, "1.2.3")
WARNED = Outcome(CT, "1.2.4", warning=StoreWarning.DOES_NOT_MATCH_SOP_CLASS)
FULL = Outcome(CT, "1.2.5", failure=Failure.OUT_OF_RESOURCES)
OTHER = Outcome(CT, "1.2.6", failure=Failure.OTHER_STUDY)
UNREADABLE = Outcome(failure=Failure.CANNOT_UNDERSTAND)


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ([STORED, STORED], HTTPStatus.OK),
        ([STORED, WARNED], HTTPStatus.ACCEPTED),
        ([STORED, UNREADABLE], HTTPStatus.ACCEPTED),
        ([FULL, STORED], HTTPStatus.ACCEPTED),
        ([OTHER], HTTPStatus.CONFLICT),
        ([OTHER, FULL, UNREADABLE], HTTPStatus.CONFLICT),
        ([FULL, FULL], HTTPStatus.SERVICE_UNAVAILABLE),
        ([UNREADABLE], HTTPStatus.BAD_REQUEST),
        ([], HTTPStatus.BAD_REQUEST),
    ],
)
def test_the_status_says_whether_all_some_or_none_were_stored(outcomes: Sequence[Outcome], status: HTTPStatus) -> None:
    assert status_of(outcomes) is status


def test_the_json_is_a_data_set_in_the_dicom_json_model() -> None:
    found = Dataset.from_json(json.loads(encode([STORED, WARNED, OTHER, UNREADABLE], JSON)))
    assert [item.ReferencedSOPInstanceUID for item in found.ReferencedSOPSequence] == ["1.2.3", "1.2.4"]
    assert found.ReferencedSOPSequence[0].ReferencedSOPClassUID == CT
    assert "WarningReason" not in found.ReferencedSOPSequence[0]
    assert found.ReferencedSOPSequence[1].WarningReason == 0xB007
    (failed,) = found.FailedSOPSequence
    assert (failed.ReferencedSOPClassUID, failed.ReferencedSOPInstanceUID, failed.FailureReason) == (
        CT,
        "1.2.6",
        0xA901,
    )
    (other,) = found.OtherFailuresSequence
    assert (other.FailureReason, len(other)) == (0xC000, 1)
    assert found.RetrieveURL in (None, "")


def test_a_sequence_without_items_is_left_out() -> None:
    assert set(json.loads(encode([STORED], JSON))) == {"00081190", "00081199"}
    assert set(json.loads(encode([], JSON))) == {"00081190"}


def test_the_xml_says_the_same_with_the_dictionary_s_keywords() -> None:
    outcomes = [STORED, WARNED, FULL, UNREADABLE]
    root = ElementTree.fromstring(encode(outcomes, XML))
    assert root.tag == "{http://dicom.nema.org/PS3.19/models/NativeDICOM}NativeDicomModel"
    assert _of_xml(root) == json.loads(encode(outcomes, JSON))
    for element in root.iter("{*}DicomAttribute"):
        assert element.get("keyword") == keyword_for_tag(int(element.get("tag", ""), 16))


def _of_xml(parent: ElementTree.Element) -> dict[str, object]:
    found: dict[str, object] = {}
    for element in parent.findall("{*}DicomAttribute"):
        vr = element.get("vr")
        texts = [v.text if vr != "US" else int(v.text or "") for v in element.findall("{*}Value")]
        values = [*texts, *(_of_xml(item) for item in element.findall("{*}Item"))]
        found[element.get("tag", "")] = {"vr": vr, "Value": values} if values else {"vr": vr}
    return found


@pytest.mark.parametrize(
    ("accept", "answer"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("application/dicom+json", JSON),
        ("application/dicom+xml", XML),
        ("application/dicom+xml, application/dicom+json", JSON),
        ("application/dicom+xml, application/dicom+json; q=0.5", XML),
        ("application/dicom+json;q=0, */*;q=0.1", XML),
        ("text/html, APPLICATION/JSON", "application/json"),
        ("text/html, */*;q=0.1", JSON),
        ("text/html", None),
        ("application/dicom+json;q=0", None),
        ("application/dicom+json;q=x", None),
        ('multipart/related; type="application/dicom"', None),
    ],
)
def test_the_answer_comes_in_what_the_sender_takes(accept: str, answer: str | None) -> None:
    assert answer_type(accept) == answer
