"""HL7 v2.5.1 ORU^R01 for the RIS: preliminary, UTF-8."""

from hilum_results.encode.oru.read import decode
from hilum_results.encode.oru.write import addressed, control_id, encode

__all__ = ["addressed", "control_id", "decode", "encode"]
