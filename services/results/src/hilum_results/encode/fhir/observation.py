"""Observations: one for each finding with its region and certainty, one for each answer, one when nothing was found.

R4 has no ImagingSelection, so a region is a component (DCM 111030) with the image, frame and outline as JSON text.
"""

import json

from hilum.domain.identity import derive_uid
from hilum.domain.results import Result
from hilum_results.encode import terminology as terms
from hilum_results.encode.canonical import CanonicalFinding, canonical
from hilum_results.encode.fhir.datatypes import AIAST, Json, clean, concept, derived_uuid, search, uid_identifier
from hilum_results.encode.fhir.links import device_url, patient_url, study_url
from hilum_results.encode.times import fhir_time, in_site_zone, study_instant

_IMAGING: Json = {
    "coding": [
        {
            "system": "http://terminology.hl7.org/CodeSystem/observation-category",
            "code": "imaging",
            "display": "Imaging",
        }
    ]
}


def observations(result: Result) -> list[Json]:
    """Bundle entries in the order of the findings, then labels without a region, answers, and dropped candidates."""
    findings = result.findings
    entries = [
        _entry(result, finding.tracking_uid, _finding(written, urgent=finding.urgent))
        for finding, written in zip(findings.findings, canonical(result), strict=True)
    ]
    for number, label in enumerate(findings.ungrounded, start=1):
        body = {
            "code": concept(terms.FINDING),
            "valueCodeableConcept": concept(terms.finding_code(label), clean(label)),
            "note": [{"text": "Named in the report without a region."}],
        }
        entries.append(_entry(result, derive_uid("ungrounded", result.key, str(number)), body))
    if not entries:
        body = {"code": concept(terms.PRESENCE, "Any finding"), "valueCodeableConcept": concept(terms.ABSENT)}
        entries.append(_entry(result, derive_uid("no-finding", result.key), body))
    entries[0]["resource"].setdefault("note", []).extend(
        {"text": f"Not reported: {clean(d.text)} ({clean(d.reason)})"} for d in findings.dropped
    )
    for number, answer in enumerate(findings.answers, start=1):
        body = {
            "code": {"text": clean(answer.question) or "question"},
            "valueString": clean(answer.text) or "(empty answer)",
        }
        entries.append(_entry(result, derive_uid("answer", result.key, str(number)), body))
    for entry in entries:
        if not entry["resource"].get("note"):
            entry["resource"].pop("note", None)
    return entries


def _entry(result: Result, uid: str, body: Json) -> Json:
    """One preliminary Observation, found again by its identifier when it is sent again."""
    own = uid_identifier(uid)
    effective = study_instant(result.header, result.time_zone) or in_site_zone(result.findings.produced_at, result)
    resource: Json = {
        "resourceType": "Observation",
        "meta": {"security": [AIAST]},
        "identifier": [own],
        "status": "preliminary",
        "category": [_IMAGING],
        "subject": {"reference": patient_url(result)},
        "effectiveDateTime": fhir_time(effective),
        "device": {"reference": device_url(result)},
        "derivedFrom": [{"reference": study_url(result)}],
        **body,
    }
    request = {"method": "PUT", "url": f"Observation?{search(own)}"}
    return {"fullUrl": f"urn:uuid:{derived_uuid('observation', uid)}", "resource": resource, "request": request}


def _finding(written: CanonicalFinding, *, urgent: bool) -> Json:
    known = terms.lookup(written.label)
    site: Json = {"bodySite": concept(known.site)} if known and known.site else {}
    return {
        "code": concept(terms.FINDING),
        "valueCodeableConcept": concept(terms.finding_code(written.label), written.label),
        **site,
        "component": [
            {
                "code": concept(terms.CERTAINTY),
                "valueQuantity": {
                    "value": written.certainty_percent,
                    "unit": "%",
                    "system": "http://unitsofmeasure.org",
                    "code": "%",
                },
            },
            {"code": concept(terms.IMAGE_REGION), "valueString": region_text(written)},
            {
                "code": concept(terms.PRIORITY),
                "valueCodeableConcept": concept(terms.HIGH_PRIORITY if urgent else terms.NORMAL_PRIORITY),
            },
        ],
    }


def region_text(written: CanonicalFinding) -> str:
    """The region as JSON with DICOM's own names: column, row pairs in pixels, 0, 0 at the image's top left corner."""
    box = written.box
    corners = [box.left, box.top, box.right, box.top, box.right, box.bottom, box.left, box.bottom, box.left, box.top]
    region = {
        "ReferencedSOPInstanceUID": written.sop_instance_uid,
        "ReferencedFrameNumber": written.frame,
        "GraphicType": "POLYLINE",
        "GraphicData": corners,
    }
    return json.dumps(region, separators=(",", ":"))
