"""What a compressed frame says of its own size, read before any decoder allocates memory for it."""

import struct

_JPEG_FRAME = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7})
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})


def claimed_size(codestream: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and components of a JPEG, JPEG-LS or JPEG 2000 codestream; None when it is none of them."""
    try:
        if codestream[:2] == b"\xff\xd8":
            return _jpeg(codestream)
        start = codestream.find(b"\xff\x4f\xff\x51", 0, 4096)  # bare, or inside JP2 boxes
        return _jpeg_2000(codestream, start) if start >= 0 else None
    except (struct.error, IndexError):
        return None


def _jpeg(codestream: bytes) -> tuple[int, int, int] | None:
    """ISO/IEC 10918-1 B.2.2 and 14495-1 C.2.2: the frame header follows marker segments of known length."""
    at = 2
    while at + 4 <= len(codestream):
        if codestream[at] != 0xFF:
            return None
        marker = codestream[at + 1]
        if marker == 0xFF or marker in _JPEG_ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _JPEG_FRAME:
            rows, columns, components = struct.unpack_from(">HHB", codestream, at + 5)
            return rows, columns, components
        at += 2 + struct.unpack_from(">H", codestream, at + 2)[0]
    return None


def _jpeg_2000(codestream: bytes, start: int) -> tuple[int, int, int]:
    """ISO/IEC 15444-1 A.5.1: the SIZ segment follows SOC at once."""
    right, bottom, left, top = struct.unpack_from(">IIII", codestream, start + 8)
    (components,) = struct.unpack_from(">H", codestream, start + 40)
    return bottom - top, right - left, components
