"""The FHIR bundle: valid R4, preliminary, AI-labelled, and idempotent when it is sent again."""

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from hilum.domain.findings import Answer, Dropped
from hilum.domain.identity import Patient
from hilum.domain.results import Result
from hilum.testing import results as samples
from hilum_results.encode import fhir

ONE = samples.image(1)


def full() -> Result:
    return samples.result(
        samples.findings(
            [samples.finding("Nodule", 1, on=ONE, urgent=True), samples.finding("Odd label", 2, on=ONE)],
            images=[ONE],
            report="First line.\nSecond <b>line</b> & more.",
            answers=[Answer("Is there a fracture?", "No.")],
            ungrounded=["Pleural effusion"],
            dropped=[Dropped("Fracture", "probability 0.10 is below the threshold 0.30")],
        ),
        predecessor=("1.2.3", "1.2"),
    )


def resources(result: Result, kind: str) -> Sequence[Any]:
    entries = json.loads(fhir.encode(result))["entry"]
    return [e["resource"] for e in entries if e["resource"]["resourceType"] == kind]


HEADERS = {
    "full": samples.HEADER,
    "no patient id": replace(samples.HEADER, patient=Patient()),
    "no issuer": replace(samples.HEADER, patient=Patient("1|2", "", "A^B=山田^太郎=やまだ^たろう", "19000101", "X")),
    "no order, no time": replace(
        samples.HEADER, accession_number="", study_date="", study_time="", procedure_code="", study_description=""
    ),
    "tricky name": replace(samples.HEADER, patient=Patient("a b&c", "Ward 1", 'O\\"^&|~', "bad", "F")),
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
@pytest.mark.parametrize("of", ["full", "none"])
def test_three_validators_and_our_own_checks_find_no_error(
    header: Any, of: str, fhir_errors: Callable[[bytes], list[str]]
) -> None:
    result = replace(full(), header=header)
    if of == "none":
        result = samples.result(samples.findings([], images=[ONE]), header=header)
    assert fhir_errors(fhir.encode(result)) == []


def test_the_checks_do_find_what_is_broken(fhir_errors: Callable[[bytes], list[str]]) -> None:
    bundle = json.loads(fhir.encode(full()))
    report = next(e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == "DiagnosticReport")
    report["result"][0]["reference"] = "urn:uuid:00000000-0000-4000-8000-000000000000"
    assert fhir_errors(json.dumps(bundle).encode())


def test_the_report_is_preliminary_coded_and_labelled_as_made_by_ai() -> None:
    report = resources(full(), "DiagnosticReport")[0]
    assert report["status"] == "preliminary"
    assert report["category"][0]["coding"][0]["code"] == "LP29684-5"
    assert [c["code"] for c in report["code"]["coding"]] == ["18748-4", "36643-5"]
    label = report["meta"]["security"][0]
    assert label["system"] == "http://terminology.hl7.org/CodeSystem/v3-ObservationValue"
    assert label["code"] == "AIAST"
    assert report["effectiveDateTime"] == "2026-11-24T15:00:00+01:00"
    assert samples.NANO.disclaimer in report["conclusion"]
    assert len(report["result"]) == len(resources(full(), "Observation")) == 4


def test_report_text_is_an_attachment_whose_hash_fits_and_is_never_markup() -> None:
    report = resources(full(), "DiagnosticReport")[0]
    form = report["presentedForm"][0]
    data = base64.b64decode(form["data"])
    assert data.decode() == "First line.\nSecond <b>line</b> & more."
    assert base64.b64decode(form["hash"]) == hashlib.sha1(data, usedforsecurity=False).digest()
    assert "<b>" not in report["text"]["div"]


def test_sending_again_creates_nothing_twice() -> None:
    entries = json.loads(fhir.encode(full()))["entry"]
    for request in (entry["request"] for entry in entries):
        is_update = request["method"] == "PUT" and ("identifier=" in request["url"] or "Provenance/" in request["url"])
        assert is_update or (request["method"] == "POST" and request["ifNoneExist"].startswith("identifier="))


def test_a_later_revision_updates_the_same_report_and_names_the_earlier_result() -> None:
    first = samples.result(samples.findings([], images=[ONE]))
    second = samples.result(samples.findings([], images=[ONE], revision=2), predecessor=(first.sr_instance_uid, "1.2"))

    def report_url(result: Result) -> str:
        entries = json.loads(fhir.encode(result))["entry"]
        urls = [e["request"]["url"] for e in entries if e["resource"]["resourceType"] == "DiagnosticReport"]
        return str(urls[0])

    assert report_url(first) == report_url(second)
    entities = resources(second, "Provenance")[0]["entity"]
    assert [e for e in entities if e["role"] == "revision"]


def test_nothing_found_is_said_and_not_left_out() -> None:
    found = resources(samples.result(samples.findings([], images=[ONE])), "Observation")
    assert [o["valueCodeableConcept"]["coding"][0]["code"] for o in found] == ["2667000"]


def test_a_name_keeps_its_parts_in_every_script() -> None:
    patient = resources(replace(full(), header=HEADERS["no issuer"]), "Patient")[0]
    assert [n["family"] for n in patient["name"]] == ["A", "山田", "やまだ"]
    assert "gender" not in patient
