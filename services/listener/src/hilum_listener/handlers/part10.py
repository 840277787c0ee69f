"""The head of a stored file: preamble, prefix and file meta information (PS3.10 7.1)."""

import struct

from hilum.domain.identity import derive_uid

IMPLEMENTATION_CLASS_UID = derive_uid("implementation", "hilum")
IMPLEMENTATION_VERSION = "HILUM"
"""Carries no release number, so that the same data set makes the same file under every release."""


def file_head(*, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """Everything in front of the encoded data set. Depends on the three UIDs alone."""
    body = b"".join(
        (
            struct.pack("<HH2sHI2s", 2, 0x0001, b"OB", 0, 2, b"\x00\x01"),
            _short(0x0002, b"UI", sop_class_uid, b"\0"),
            _short(0x0003, b"UI", sop_instance_uid, b"\0"),
            _short(0x0010, b"UI", transfer_syntax_uid, b"\0"),
            _short(0x0012, b"UI", IMPLEMENTATION_CLASS_UID, b"\0"),
            _short(0x0013, b"SH", IMPLEMENTATION_VERSION, b" "),
        )
    )
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(body)) + body


def _short(element: int, vr: bytes, text: str, padding: bytes) -> bytes:
    """One element of group 0002 in Explicit VR Little Endian with a 16-bit length (PS3.5 7.1.2)."""
    value = text.encode("ascii", "replace")
    if len(value) % 2:
        value += padding
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value
