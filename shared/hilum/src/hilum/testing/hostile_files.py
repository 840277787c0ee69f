"""Part 10 files as attackers write them, for tests: small bytes that ask for much."""

import struct
import zlib

PREFIX = bytes(128) + b"DICM"
EXPLICIT, IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED, JPEG = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.50"
CR = "1.2.840.10008.5.1.4.1.1.1"
_LONG = {"SQ", "UN", "OB", "OW", "UT"}


def element(tag: int, vr: str, value: bytes, *, length: int | None = None) -> bytes:
    """One element in Explicit VR Little Endian; `length` may lie."""
    value += b"\0" * (len(value) % 2)
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    stated = len(value) if length is None else length
    return head + (struct.pack("<HI", 0, stated) if vr in _LONG else struct.pack("<H", stated)) + value


def item(content: bytes, *, length: int | None = None) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content) if length is None else length) + content


ITEM_END, SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def nested(depth: int, *, defined: bool, tag: int = 0x0040A730) -> bytes:
    """A sequence in a sequence in a sequence …"""
    content = element(0x00080100, "SH", b"CODE")
    for _ in range(depth):
        if defined:
            content = element(tag, "SQ", item(content))
        else:
            content = element(tag, "SQ", item(content, length=0xFFFFFFFF) + ITEM_END + SEQUENCE_END, length=0xFFFFFFFF)
    return content


def uids(name: str) -> bytes:
    """The start of a data set: class, instance and modality."""
    return (
        element(0x00080016, "UI", CR.encode())
        + element(0x00080018, "UI", f"1.2.3.{name}".encode())
        + element(0x00080060, "CS", b"CR")
    )


def places(study: str) -> bytes:
    """Patient, study and series, which stand behind group 0008."""
    return (
        element(0x00100010, "PN", b"Test^Case")
        + element(0x00100020, "LO", b"T-1")
        + element(0x0020000D, "UI", f"1.2.4.{study}".encode())
        + element(0x0020000E, "UI", f"1.2.5.{study}".encode())
    )


def picture(
    *, rows: int = 8, columns: int = 8, frames: str = "", photometric: str = "MONOCHROME2", pixels: bytes = bytes(64)
) -> bytes:
    """An 8-bit Image Pixel module; nothing in it need be true."""
    return (
        element(0x00280002, "US", b"\x01\0")
        + element(0x00280004, "CS", photometric.encode())
        + (element(0x00280008, "IS", frames.encode()) if frames else b"")
        + element(0x00280010, "US", struct.pack("<H", rows))
        + element(0x00280011, "US", struct.pack("<H", columns))
        + element(0x00280100, "US", b"\x08\0")
        + element(0x00280101, "US", b"\x08\0")
        + element(0x00280102, "US", b"\x07\0")
        + element(0x00280103, "US", b"\0\0")
        + element(0x7FE00010, "OB", pixels)
    )


def data_set(name: str, *, before: bytes = b"", study: str = "1", image: bytes | None = None) -> bytes:
    """A small chest image with `before` between its group 0008 and its patient."""
    return uids(name) + before + places(study) + (picture() if image is None else image)


def file_of(data: bytes, *, syntax: str = EXPLICIT) -> bytes:
    """The data set as a Part 10 file that declares `syntax`."""
    meta = element(0x00020010, "UI", syntax.encode())
    return PREFIX + element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta + data


def deflated(data: bytes, *, zeros_mb: int = 0) -> bytes:
    """The data set and so many megabytes of zeros behind it (PS3.5 A.5)."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    megabyte = bytes(1 << 20)
    return deflater.compress(data) + b"".join(deflater.compress(megabyte) for _ in range(zeros_mb)) + deflater.flush()


def bomb(name: str, *, zeros_mb: int) -> bytes:
    """A data set that inflates to so many megabytes before its study is named."""
    head = uids(name) + element(0x00091010, "OB", b"", length=zeros_mb << 20)
    return deflated(head, zeros_mb=zeros_mb)
