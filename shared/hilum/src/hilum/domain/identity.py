"""UIDs, digests and patient identity."""

import hashlib
import re
from dataclasses import dataclass

_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")


def is_valid_uid(text: str) -> bool:
    """True for a UID of PS3.5 9.1: at most 64 characters, dotted components without leading zeros."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def digest_of(*parts: str) -> str:
    """SHA-256 (64 hex digits) of the parts; each is length-prefixed, so no two lists of parts collide."""
    state = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        state.update(f"{len(encoded)}:".encode())
        state.update(encoded)
    return state.hexdigest()


def derive_uid(*parts: str) -> str:
    """A UID under 2.25 (PS3.5 B.2) made from the parts alone: the same parts give the same UID.

    The 128 bits are the start of the digest with the version and variant bits of an RFC 9562 version 8 UUID.
    """
    value = int(digest_of(*parts)[:32], 16)
    value = (value & ~(0xF << 76)) | (8 << 76)
    value = (value & ~(0x3 << 62)) | (2 << 62)
    return f"2.25.{value}"


def study_key(study_uid: str) -> str:
    """What stands for a study in logs, traces, message keys and paths: 16 hex digits, not reversible by reading."""
    return digest_of("study", study_uid)[:16]


@dataclass(frozen=True, slots=True)
class Patient:
    """The patient as the images name him or her. Every field may be empty (type 2 attributes, PS3.3 C.7.1.1).

    Attributes:
        name: person name in DICOM form (`Family^Given^Middle^Prefix^Suffix`), component groups joined by `=`.
        birth_date: `YYYYMMDD` or empty.
        sex: `M`, `F`, `O` or empty.
    """

    patient_id: str = ""
    issuer: str = ""
    name: str = ""
    birth_date: str = ""
    sex: str = ""
