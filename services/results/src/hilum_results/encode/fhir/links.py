"""How entries of one bundle name each other: `urn:uuid` URLs derived from the result, resolved by the server."""

from hilum.domain.results import Result
from hilum_results.encode.fhir.datatypes import derived_uuid


def _url(kind: str, result: Result) -> str:
    return f"urn:uuid:{derived_uuid(kind, result.key)}"


def patient_url(result: Result) -> str:
    return _url("patient", result)


def study_url(result: Result) -> str:
    return _url("imaging-study", result)


def device_url(result: Result) -> str:
    return _url("device", result)


def report_url(result: Result) -> str:
    return _url("report", result)
