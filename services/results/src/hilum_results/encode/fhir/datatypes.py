"""FHIR data types as JSON values, and the systems that identifiers and codes belong to."""

import re
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from hilum.domain.identity import Patient, digest_of
from hilum_results.encode.terminology import Code

Json = dict[str, Any]

UID_SYSTEM = "urn:dicom:uid"  # the system for DICOM UIDs (FHIR R4 imagingstudy, "identifier")
LOINC = "http://loinc.org"
CODE_SYSTEMS: Mapping[str, str] = {
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "LN": LOINC,
    "UCUM": "http://unitsofmeasure.org",
    "RADLEX": "http://radlex.org",
    "99HILUM": "urn:hilum:label",
}
"""Scheme designators of PS3.16 8 that HL7 publishes a URI for, and Hilum's own."""

AIAST: Json = {
    # In v3-ObservationValue, not ActCode (HL7 AI Transparency on FHIR).
    "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
    "code": "AIAST",
    "display": "Artificial Intelligence asserted",
}

_OID = re.compile(r"[0-2](\.(0|[1-9]\d*))+")


def urn_oid(uid: str) -> str:
    return f"urn:oid:{uid}"


def derived_uuid(*parts: str) -> str:
    """A UUID made from the parts alone (RFC 9562 version 8)."""
    value = int(digest_of(*parts)[:32], 16)
    value = (value & ~(0xF << 76) & ~(0x3 << 62)) | (8 << 76) | (2 << 62)
    return str(uuid.UUID(int=value))


def coding(code: Code) -> Json:
    system = CODE_SYSTEMS.get(code.scheme)
    named: Json = {"system": system} if system else {}
    return {**named, "code": code.value, "display": code.meaning}


def concept(code: Code, text: str = "") -> Json:
    return {"coding": [coding(code)], **({"text": text} if text else {})}


def uid_identifier(uid: str) -> Json:
    return {"system": UID_SYSTEM, "value": urn_oid(uid)}


def search(identifier: Json) -> str:
    """`identifier=system|value` for a conditional interaction; a missing system matches identifiers without one."""
    system = quote(identifier.get("system", ""), safe=":/.")
    return f"identifier={system}%7C{quote(identifier['value'], safe=':.')}"


def patient_identifier(patient: Patient) -> Json:
    """The medical record number. Its system is the issuer: an OID where it is one, else a URN that names it."""
    identifier: Json = {"type": concept(Code("MR", "", "Medical record number"))}
    identifier["type"]["coding"][0]["system"] = "http://terminology.hl7.org/CodeSystem/v2-0203"
    issuer = clean(patient.issuer)
    if issuer:
        is_oid = _OID.fullmatch(issuer) is not None
        identifier["system"] = urn_oid(issuer) if is_oid else f"urn:hilum:issuer:{quote(issuer, safe='')}"
    identifier["value"] = clean(patient.patient_id)
    return identifier


def human_names(name: str) -> list[Json]:
    """A DICOM person name (Family^Given^Middle^Prefix^Suffix, groups joined by `=`) as FHIR names."""
    names = []
    for group in name.split("=")[:3]:
        family, given, middle, prefix, suffix = (*(clean(p) for p in group.split("^")), "", "", "", "", "")[:5]
        human: Json = {"family": family, "given": [g for g in (given, middle) if g]}
        human |= {"prefix": [prefix] if prefix else [], "suffix": [suffix] if suffix else []}
        human = {key: value for key, value in human.items() if value}
        if human:
            names.append(human)
    return names


def clean(text: str) -> str:
    """Text for a FHIR string: no control character except TAB and line breaks (R4 2.24.0.1), no space around it."""
    unified = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(c for c in unified if c in "\t\n" or (ord(c) >= 32 and c != "\x7f")).strip()
