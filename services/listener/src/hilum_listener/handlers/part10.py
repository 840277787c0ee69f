"""The head of a Part 10 file: preamble, prefix and file meta information (PS3.10 7.1), written and read."""

import os
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hilum.adapters.dicom.elements import file_meta, parse
from hilum.adapters.dicom.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from hilum.domain.errors import Reject

_DEFLATED_LE = "1.2.840.10008.1.2.1.99"
_META_BYTES, _PIECE_BYTES = 1 << 16, 1 << 20
_UID = re.compile(r"[0-9][0-9.]{0,63}", re.ASCII)
_UNREADABLE = (ValueError, ArithmeticError, IndexError, struct.error, zlib.error)


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


@dataclass(frozen=True, slots=True)
class Identity:
    """What a Part 10 file says it is; a UID that is missing is empty.

    Attributes:
        contradictory: the file meta information names another object than the data set.
        declared_end: where its pixel data ends, in bytes from the start; 0 if unknown.
        unreadable: the data set does not pass the pre-check, or its Study Instance UID is no UID.
        data_set_at: where the data set begins, in bytes from the start.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    contradictory: bool = False
    declared_end: int = 0
    unreadable: bool = False
    data_set_at: int = 0

    @property
    def is_named(self) -> bool:
        """It says as much of itself as a C-STORE request says of its data set."""
        return all((self.sop_class_uid, self.sop_instance_uid, self.transfer_syntax_uid))

    @property
    def is_complete(self) -> bool:
        return self.is_named and bool(self.study_instance_uid)


def identify(head: bytes) -> Identity:
    """Finds the UIDs at the start of a Part 10 file; costs at most a scan of these bytes, whatever they hold.

    Raises:
        Reject: no Part 10 file, or a UID in its file meta information that is none.
    """
    try:
        meta, data_set_at = file_meta(head)
    except _UNREADABLE as error:
        raise Reject(f"the file cannot be read as DICOM ({type(error).__name__})") from error
    of_meta = [_uid(meta.ascii(tag)) for tag in (0x00020002, 0x00020003)]
    syntax = _uid(meta.ascii(0x00020010))
    try:
        file = parse(head, inflated_head=len(head))
    except (Reject, *_UNREADABLE):
        return Identity(of_meta[0], of_meta[1], "", syntax, unreadable=True, data_set_at=data_set_at)
    stated = [file.dataset.ascii(tag) for tag in (0x00080016, 0x00080018)]
    sop_class_uid, sop_instance_uid = (
        one or (other if is_uid(other) else "") for one, other in zip(of_meta, stated, strict=True)
    )
    study = file.dataset.ascii(0x0020000D)
    pixels = None if syntax == _DEFLATED_LE else file.pixel_data
    return Identity(
        sop_class_uid=sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        study_instance_uid=study if is_uid(study) else "",
        transfer_syntax_uid=syntax,
        contradictory=any(one and other and one != other for one, other in zip(of_meta, stated, strict=True)),
        declared_end=0 if pixels is None or pixels.undefined_length else pixels.end,
        unreadable=bool(study) and not is_uid(study),
        data_set_at=data_set_at,
    )


def same_data_set(one: Path, other: Path) -> bool:
    """Whether two Part 10 files hold the same encoded data set in the same transfer syntax.

    Raises:
        OSError: one of them can't be read.
    """
    with one.open("rb") as first, other.open("rb") as second:
        descriptions = [_meta(file) for file in (first, second)]
        if descriptions[0] != descriptions[1]:
            return False
        while piece := first.read(_PIECE_BYTES):
            if second.read(_PIECE_BYTES) != piece:
                return False
        return not second.read(1)


def _meta(file: BinaryIO) -> tuple[bytes, int]:
    """The transfer syntax, padded, and how many bytes of data set follow; leaves the file at the first of them."""
    head = file.read(_META_BYTES)
    at, syntax = 132, b""
    while head[at : at + 2] == b"\2\0":
        is_long = head[at + 4 : at + 6] in (b"OB", b"UN", b"OW", b"UT")
        start = at + (12 if is_long else 8)
        end = start + int.from_bytes(head[start - 4 if is_long else start - 2 : start], "little")
        if head[at + 2 : at + 4] == b"\x10\0":
            syntax = head[start:end]
        at = end
    size = os.fstat(file.fileno()).st_size
    file.seek(at)
    return syntax, size - at


def is_uid(text: str) -> bool:
    """Digits and dots only; wider than PS3.5 9.1, since senders with leading zeros in a component exist."""
    return _UID.fullmatch(text) is not None


def _uid(text: str) -> str:
    if text and not is_uid(text):
        raise Reject("a UID of the file is not a UID")
    return text
