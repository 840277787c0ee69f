"""`hilum up --demo --exit-when-done`: one command, and grounded SR, FHIR and HL7 come out."""

import hashlib
import json
from pathlib import Path

import hl7  # type: ignore[import-untyped]
import pydicom
import pytest

from hilum.adapters.sql.database import database_path, open_database, reading
from hilum.adapters.sql.ledger import encoding
from hilum.domain.results import AiState, Format
from hilum_results.encode.oru import addressed
from hilum_standalone.samples.catalogue import count

from .conftest import Demo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
WITH_RESULT = (AiState.POSITIVE, AiState.NEGATIVE)
KINDS = {"dicom": Format.SR, "fhir": Format.FHIR, "hl7": Format.ORU}


def test_it_ends_well_and_prints_a_row_for_each_study(demo: Demo) -> None:
    assert demo.exit_code == 0, demo.output
    assert len(demo.details) == count() >= 8
    table = demo.output[demo.output.index("Why there") :]
    for name in ("STAT, pneumothorax", "urgent, two images", "routine, no finding", "public chest PA (real)"):
        assert f"\n{name}" in table
    assert "http://127.0.0.1:" in demo.output
    assert "Warning: no peers are configured" in demo.output


def test_every_study_ended_in_one_state_with_a_reason(demo: Demo) -> None:
    for detail in demo.details:
        assert isinstance(detail.state, AiState)
        assert detail.state is not AiState.FAILED, detail.row.reason
        assert detail.row.reason
        assert [r.revision for r in detail.revisions] == [1]


@pytest.mark.parametrize("modality", ["CT", "MR", "US"])
def test_what_the_model_does_not_read_is_not_applicable_and_says_why(demo: Demo, modality: str) -> None:
    (detail,) = [d for d in demo.details if d.row.modality == modality]
    assert detail.state is AiState.NOT_APPLICABLE
    assert f"modality {modality} is not CR/DX" in detail.row.reason
    assert detail.latest is None


@pytest.mark.parametrize("kind", list(KINDS))
def test_each_result_reached_each_receiver_once_byte_for_byte(demo: Demo, kind: str) -> None:
    engine = open_database(database_path(demo.data))
    with reading(engine) as connection:
        stored = [encoding(connection, d.row.study_uid, KINDS[kind]) for d in demo.details if d.state in WITH_RESULT]
    engine.dispose()
    assert len(stored) >= 8
    if kind == "hl7":  # MSH-5 and MSH-6 are the destination's
        stored = [addressed(content or b"", application="DEMO_RIS", facility="") for content in stored]
    digests = sorted(hashlib.sha256(content or b"").hexdigest() for content in stored)
    receipts = demo.receipts(kind)
    assert len(receipts) == len({r["identity"] for r in receipts}) == len(stored)
    if kind == "dicom":  # the file meta is the receiver's own
        return
    assert sorted(r["sha256"] for r in receipts) == digests


def test_each_sr_points_at_images_of_its_study_and_says_that_nobody_verified_it(demo: Demo) -> None:
    images = {d.row.study_uid: {i.sop_instance_uid for i in d.images} for d in demo.details}
    for path in (demo.data / "received" / "dicom").glob("*.dcm"):
        sr = pydicom.dcmread(path)
        assert (sr.Modality, sr.VerificationFlag, sr.CompletionFlag) == ("SR", "UNVERIFIED", "COMPLETE")
        (evidence,) = sr.CurrentRequestedProcedureEvidenceSequence
        referenced = {
            item.ReferencedSOPInstanceUID for s in evidence.ReferencedSeriesSequence for item in s.ReferencedSOPSequence
        }
        assert evidence.StudyInstanceUID == sr.StudyInstanceUID
        assert referenced <= images[sr.StudyInstanceUID]


def test_fhir_and_hl7_name_the_study_and_are_preliminary(demo: Demo) -> None:
    studies = {d.row.study_uid for d in demo.details if d.state in WITH_RESULT}
    bundles = [json.loads(p.read_text()) for p in (demo.data / "received" / "fhir").glob("*.json")]
    for bundle in bundles:
        reports = [e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == "DiagnosticReport"]
        assert [report["status"] for report in reports] == ["preliminary"]
    assert {uid for uid in studies if any(uid in json.dumps(bundle) for bundle in bundles)} == studies
    messages = [hl7.parse(p.read_bytes().decode("utf-8")) for p in (demo.data / "received" / "hl7").glob("*.hl7")]
    assert len({str(m.segment("MSH")[10]) for m in messages}) == len(studies)
    assert {str(m.segment("OBR")[25]) for m in messages} == {"P"}


def test_the_two_images_of_one_study_are_both_read(demo: Demo) -> None:
    (detail,) = [d for d in demo.details if len(d.images) == 2]
    assert detail.latest is not None
    assert detail.latest.result is not None
    assert {i.sop_instance_uid for i in detail.latest.result.images} == {i.sop_instance_uid for i in detail.images}


def test_boxes_lie_inside_the_images_they_belong_to(demo: Demo) -> None:
    results = [d.latest.result for d in demo.details if d.latest is not None and d.latest.result is not None]
    findings = [finding for result in results for finding in result.findings]
    assert findings
    for finding in findings:
        assert finding.box.is_inside(rows=finding.rows, columns=finding.columns)


def test_the_commands_tell_the_same_as_the_ledger(demo: Demo, tmp_path: Path) -> None:
    listed = json.loads(demo.hilum("studies", "--json").stdout)
    assert {s["study_uid"]: s["state"] for s in listed} == {d.row.study_uid: str(d.state) for d in demo.details}
    uid = next(d.row.study_uid for d in demo.details if d.state in WITH_RESULT)
    shown = json.loads(demo.hilum("show", uid, "--json").stdout)
    assert shown["state"] in ("positive", "negative")
    assert {d["state"] for d in shown["deliveries"]} == {"accepted"}
    exported = demo.hilum("export", uid, "--out", tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert pydicom.dcmread(tmp_path / "sr.dcm").StudyInstanceUID == uid
    assert json.loads((tmp_path / "bundle.json").read_text())["resourceType"] == "Bundle"
    assert (tmp_path / "oru.hl7").read_bytes().startswith(b"MSH|")


def test_medmo_answers_a_question_about_a_study(demo: Demo) -> None:
    uid = next(d.row.study_uid for d in demo.details if d.state in WITH_RESULT)
    asked = demo.hilum("ask", uid, "Is there a pneumothorax?")
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.strip()
    assert "not for patients" in asked.stderr
    ct = next(d.row.study_uid for d in demo.details if d.row.modality == "CT")
    refused = demo.hilum("ask", ct, "Is there a pneumothorax?")
    assert refused.returncode == 1
    assert "not_applicable" in refused.stderr


def test_the_doctor_finds_nothing_red(demo: Demo) -> None:
    told = demo.hilum("doctor")
    assert told.returncode == 0, told.stdout
    assert "MedMO-Nano" in told.stdout


def test_no_log_names_a_patient(demo: Demo) -> None:
    names = {d.row.patient.name.split("^")[0] for d in demo.details} - {""}
    assert names
    for log in (demo.data / "logs").iterdir():
        text = log.read_text()
        assert not [name for name in names if name in text]
