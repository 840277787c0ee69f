"""A FHIR R4 transaction bundle with a preliminary DiagnosticReport (base R4 and US Core DiagnosticReport Note)."""

from hilum_results.encode.fhir.bundle import bundle_identifier, encode
from hilum_results.encode.fhir.read import decode

__all__ = ["bundle_identifier", "decode", "encode"]
