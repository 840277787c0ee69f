"""Data sets to send: noise of the size of a modality's images, written as Part 10 files."""

import struct
from dataclasses import dataclass
from pathlib import Path
from random import Random

_EXPLICIT_LE = "1.2.840.10008.1.2.1"


@dataclass(frozen=True, slots=True)
class Kind:
    """Images of 16 bits a pixel."""

    name: str
    sop_class: str
    modality: str
    count: int
    rows: int
    columns: int


CT = Kind("CT 525 KB", "1.2.840.10008.5.1.4.1.1.2", "CT", 400, 512, 512)
MR = Kind("MR 131 KB", "1.2.840.10008.5.1.4.1.1.4", "MR", 600, 256, 256)
CR = Kind("CR 15 MB", "1.2.840.10008.5.1.4.1.1.1", "CR", 20, 3000, 2500)
TINY = Kind("tiny 10 KB", "1.2.840.10008.5.1.4.1.1.7", "OT", 2000, 70, 70)


def write(kind: Kind, folder: Path, *, count: int = 0, parts: int = 1) -> list[Path]:
    """One series, spread over so many folders; returns them."""
    dice = Random(kind.name)
    pixels = dice.randbytes(2 * kind.rows * kind.columns)
    root = f"2.25.{dice.getrandbits(90)}"
    folders = [folder / f"{kind.modality}-{parts}-{part}" for part in range(parts)]
    for one in folders:
        one.mkdir(parents=True, exist_ok=True)
    for number in range(count or kind.count):
        path = folders[number % parts] / f"{number:05d}.dcm"
        path.write_bytes(_file(kind, root, number, pixels))
    return folders


def _file(kind: Kind, root: str, number: int, pixels: bytes) -> bytes:
    uid = f"{root}.1.{number}"
    meta = b"".join(
        (
            _long(2, 1, b"OB", b"\0\1"),
            _short(2, 2, b"UI", kind.sop_class),
            _short(2, 3, b"UI", uid),
            _short(2, 0x10, b"UI", _EXPLICIT_LE),
            _short(2, 0x12, b"UI", "2.25.1"),
        )
    )
    shapes = ((2, 1), (0x10, kind.rows), (0x11, kind.columns), (0x100, 16), (0x101, 12), (0x102, 11), (0x103, 0))
    dataset = [
        _short(8, 0x16, b"UI", kind.sop_class),
        _short(8, 0x18, b"UI", uid),
        _short(8, 0x20, b"DA", "20260101"),
        _short(8, 0x60, b"CS", kind.modality),
        _short(0x10, 0x10, b"PN", "Bench^Ingest"),
        _short(0x10, 0x20, b"LO", "B-1"),
        _short(0x20, 0x0D, b"UI", root),
        _short(0x20, 0x0E, b"UI", f"{root}.2"),
        _short(0x20, 0x13, b"IS", str(number)),
        *(struct.pack("<HH2sHH", 0x28, element, b"US", 2, value) for element, value in shapes[:1]),
        _short(0x28, 4, b"CS", "MONOCHROME2"),
        *(struct.pack("<HH2sHH", 0x28, element, b"US", 2, value) for element, value in shapes[1:]),
        _long(0x7FE0, 0x10, b"OW", pixels),
    ]
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta)) + meta + b"".join(dataset)


def _short(group: int, element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii")
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value


def _long(group: int, element: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sHI", group, element, vr, 0, len(value)) + value
