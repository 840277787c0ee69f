"""The transaction bundle. Sending it twice changes nothing: every entry is a conditional create or update.

Hilum owns Device, Observation, DiagnosticReport and Provenance and updates them; Patient and ImagingStudy belong to
others, so they are created only where the server has none. The order is a reference by identifier.
"""

import base64
import hashlib
import html
import json

from fhir.resources.R4B.bundle import Bundle

from hilum.domain.identity import derive_uid
from hilum.domain.results import Result, describe
from hilum_results.encode import terminology as terms
from hilum_results.encode.fhir.datatypes import (
    AIAST,
    CODE_SYSTEMS,
    LOINC,
    Json,
    clean,
    concept,
    derived_uuid,
    human_names,
    patient_identifier,
    search,
    uid_identifier,
    urn_oid,
)
from hilum_results.encode.fhir.links import device_url, patient_url, report_url, study_url
from hilum_results.encode.fhir.observation import observations
from hilum_results.encode.times import fhir_time, in_site_zone, study_instant, valid_date

NOTE_PROFILE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-diagnosticreport-note"
_GENDER = {"M": "male", "F": "female", "O": "other"}


def bundle_identifier(result: Result) -> str:
    """The UUID of the bundle of this result."""
    return derived_uuid("bundle", result.key)


def encode(result: Result) -> bytes:
    """The result as UTF-8 JSON; a function of the result alone.

    Raises:
        pydantic.ValidationError: a resource breaks R4's structure (a bug of this module).
    """
    entries = [_patient(result), _imaging_study(result), _device(result)]
    found = observations(result)
    entries += found
    entries.append(_report(result, [entry["fullUrl"] for entry in found]))
    entries.append(_provenance(result, [entry["fullUrl"] for entry in entries[3:]]))
    bundle: Json = {
        "resourceType": "Bundle",
        "type": "transaction",
        "timestamp": fhir_time(in_site_zone(result.created_at, result)),
        "identifier": {"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{bundle_identifier(result)}"},
        "entry": entries,
    }
    Bundle.model_validate(bundle)
    return json.dumps(bundle, ensure_ascii=False, indent=1).encode("utf-8")


def _patient(result: Result) -> Json:
    patient = result.header.patient
    resource: Json = {"resourceType": "Patient"}
    names = human_names(patient.name)
    if names:
        resource["name"] = names
    if patient.sex in _GENDER:
        resource["gender"] = _GENDER[patient.sex]
    birth = valid_date(patient.birth_date)
    if birth:
        resource["birthDate"] = f"{birth[:4]}-{birth[4:6]}-{birth[6:]}"
    if clean(patient.patient_id):
        identifier = patient_identifier(patient)
        resource["identifier"] = [identifier]
        request = {"method": "POST", "url": "Patient", "ifNoneExist": search(identifier)}
    else:
        # Without a number nobody can say which patient this is: a record of its own for this study.
        known_as = derived_uuid("patient-of", result.header.study_instance_uid)
        resource["id"] = known_as
        request = {"method": "PUT", "url": f"Patient/{known_as}"}
    return {"fullUrl": patient_url(result), "resource": resource, "request": request}


def _imaging_study(result: Result) -> Json:
    header = result.header
    identifier = uid_identifier(header.study_instance_uid)
    resource: Json = {
        "resourceType": "ImagingStudy",
        "identifier": [identifier],
        "status": "available",
        "subject": {"reference": patient_url(result)},
    }
    started = study_instant(header, result.time_zone)
    if started:
        resource["started"] = fhir_time(started)
    if clean(header.accession_number):
        resource["basedOn"] = [order_reference(result)]
    if clean(header.study_description):
        resource["description"] = clean(header.study_description)
    request = {"method": "POST", "url": "ImagingStudy", "ifNoneExist": search(identifier)}
    return {"fullUrl": study_url(result), "resource": resource, "request": request}


def order_reference(result: Result) -> Json:
    """The ServiceRequest by its accession number (v2-0203 ACSN)."""
    kind = concept(terms.Code("ACSN", "", "Accession ID"))
    kind["coding"][0]["system"] = "http://terminology.hl7.org/CodeSystem/v2-0203"
    identifier: Json = {"type": kind, "value": clean(result.header.accession_number)}
    if result.header.accession_issuer:
        identifier["assigner"] = {"display": clean(result.header.accession_issuer)}
    return {"type": "ServiceRequest", "identifier": identifier}


def _device(result: Result) -> Json:
    model = result.findings.model
    identifier = uid_identifier(result.device_uid)
    resource: Json = {
        "resourceType": "Device",
        "identifier": [identifier],
        "status": "active",
        "manufacturer": clean(model.manufacturer),
        "deviceName": [{"name": clean(model.name), "type": "model-name"}],
        "type": concept(terms.ARTIFICIAL_INTELLIGENCE),
        "version": [{"value": clean(model.version)}, {"type": {"text": "weights SHA-256"}, "value": model.digest}],
        "note": [{"text": clean(model.disclaimer)}],
    }
    request = {"method": "PUT", "url": f"Device?{search(identifier)}"}
    return {"fullUrl": device_url(result), "resource": resource, "request": request}


def _report(result: Result, result_urls: list[str]) -> Json:
    """One report for a study and model: a later revision updates it (PUT by identifier)."""
    header, findings = result.header, result.findings
    own = uid_identifier(report_uid(result))
    resource: Json = {
        "resourceType": "DiagnosticReport",
        "text": {"status": "generated", "div": _narrative(result)},
        "meta": {"profile": [NOTE_PROFILE], "security": [AIAST]},
        "identifier": [own, {**uid_identifier(result.sr_instance_uid), "type": {"text": "DICOM SR of this result"}}],
        "status": "preliminary",
        "category": [
            {"coding": [{"system": LOINC, "code": "LP29684-5", "display": "Radiology"}]},
            {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RAD"}]},
        ],
        "code": _report_code(result),
        "subject": {"reference": patient_url(result)},
        "effectiveDateTime": fhir_time(
            study_instant(header, result.time_zone) or in_site_zone(findings.produced_at, result)
        ),
        "issued": fhir_time(in_site_zone(result.created_at, result)),
        "imagingStudy": [{"reference": study_url(result)}],
        "result": [{"reference": url} for url in result_urls],
        "conclusion": "\n".join(_summary(result)),
    }
    if clean(header.accession_number):
        resource["basedOn"] = [order_reference(result)]
    codes = dict.fromkeys(terms.finding_code(label) for label in _labels(result))
    if codes:
        resource["conclusionCode"] = [concept(code) for code in codes]
    text = clean(findings.report)
    if text:
        data = text.encode("utf-8")
        resource["presentedForm"] = [
            {
                "contentType": "text/plain; charset=utf-8",
                "data": base64.b64encode(data).decode("ascii"),
                "hash": base64.b64encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode("ascii"),
                "title": "AI report text, not verified",
            }
        ]
    request = {"method": "PUT", "url": f"DiagnosticReport?{search(own)}"}
    return {"fullUrl": report_url(result), "resource": resource, "request": request}


def _summary(result: Result) -> list[str]:
    findings = result.findings
    said = f"{clean(findings.model.disclaimer).rstrip('.')}. Made by AI; no person has verified it."
    return [f"AI result {result.state}: {clean(describe(findings))}.", said]


def _narrative(result: Result) -> str:
    """What a person reads when a system shows nothing else; all text is escaped, so none of it is markup."""
    lines = [*_summary(result), *clean(result.findings.report).split("\n")]
    paragraphs = "".join(f"<p>{html.escape(line)}</p>" for line in lines if line.strip())
    return f'<div xmlns="http://www.w3.org/1999/xhtml">{paragraphs}</div>'


def report_uid(result: Result) -> str:
    """The UID that names the report of a study and model in every revision."""
    return derive_uid("fhir-report", result.header.study_instance_uid, result.findings.model.name)


def _labels(result: Result) -> list[str]:
    return [f.label for f in result.findings.findings] + list(result.findings.ungrounded)


def _report_code(result: Result) -> Json:
    """LOINC Diagnostic imaging study, and the order's own code beside it when its scheme has a URI."""
    header = result.header
    codings = [{"system": LOINC, "code": "18748-4", "display": "Diagnostic imaging study"}]
    system = CODE_SYSTEMS.get(header.procedure_scheme)
    code = " ".join(clean(header.procedure_code).split())  # R4 2.24.0.1: a code has single spaces only
    if code and system:
        extra: Json = {"system": system, "code": code}
        if clean(header.procedure_meaning):
            extra["display"] = clean(header.procedure_meaning)
        codings.append(extra)
    text = clean(header.procedure_meaning or header.study_description)
    return {"coding": codings, **({"text": text} if text else {})}


def _provenance(result: Result, targets: list[str]) -> Json:
    """Who made it: the model, from these images. R4 has no identifier here, so the id is ours."""
    known_as = derived_uuid("provenance", result.key)
    resource: Json = {
        "resourceType": "Provenance",
        "id": known_as,
        "meta": {"security": [AIAST]},
        "target": [{"reference": url} for url in targets],
        "occurredDateTime": fhir_time(in_site_zone(result.findings.produced_at, result)),
        "recorded": fhir_time(in_site_zone(result.created_at, result)),
        "activity": {"text": f"image interpretation by AI, prompt SHA-256 {result.findings.prompt_digest}"},
        "agent": [
            {
                "type": {
                    "coding": [
                        {
                            "system": "http://terminology.hl7.org/CodeSystem/provenance-participant-type",
                            "code": "author",
                            "display": "Author",
                        }
                    ]
                },
                "who": {"reference": device_url(result)},
            }
        ],
        "entity": [
            {"role": "source", "what": {"reference": study_url(result)}},
            *(
                {"role": "source", "what": {"identifier": uid_identifier(image.sop_instance_uid)}}
                for image in result.findings.images
            ),
        ],
    }
    if result.predecessor_sr_uid:
        previous = {"system": "urn:dicom:uid", "value": urn_oid(result.predecessor_sr_uid)}
        resource["entity"].append({"role": "revision", "what": {"identifier": previous}})
    request = {"method": "PUT", "url": f"Provenance/{known_as}"}
    return {"fullUrl": f"urn:uuid:{known_as}", "resource": resource, "request": request}
