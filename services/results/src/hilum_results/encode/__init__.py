"""Every format that Hilum sends, encoded from `hilum.domain.results.Result` and from nothing else.

Each encoder is a pure function of the result: the same result gives the same bytes on any day and in any process.
"""

from collections.abc import Callable, Mapping

from hilum.domain.results import Format, Result
from hilum_results.encode import fhir, oru, sr

ENCODERS: Mapping[Format, Callable[[Result], bytes]] = {
    Format.SR: sr.encode,
    Format.FHIR: fhir.encode,
    Format.ORU: oru.encode,
}

MEDIA_TYPES: Mapping[Format, str] = {
    Format.SR: "application/dicom",
    Format.FHIR: "application/fhir+json",
    Format.ORU: "x-application/hl7-v2+er7",
}


def encode_all(result: Result) -> dict[Format, bytes]:
    """The bytes of every format."""
    return {format_: encode(result) for format_, encode in ENCODERS.items()}


__all__ = ["ENCODERS", "MEDIA_TYPES", "encode_all"]
