"""Inputs that are nearly right, so that most of them get beyond the first check; made of a seed alone."""

import random
import struct
from collections.abc import Callable, Mapping

from hilum.testing import hostile_files as files

Make = Callable[[random.Random], bytes]
_TEXTS = (b"", b"CHEST", b"1.2.3", b"\x1b$B\x1b(B", b"../../etc", b"<script>", b"\\" * 9, b"1e400", b"-1", b"\xff" * 7)
_LENGTHS = (0, 1, 2, 7, 8, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
_SYNTAXES = (files.EXPLICIT, files.EXPLICIT, files.IMPLICIT, files.BIG_ENDIAN, files.DEFLATED, files.JPEG, "1.2", "")
_TAGS = (
    *(0x00080005, 0x00080016, 0x00080018, 0x00080020, 0x00080030, 0x00080050, 0x00080051, 0x00080060, 0x00080201),
    *(0x0008103E, 0x00081032, 0x00082218, 0x00100010, 0x00100020, 0x0018A001, 0x00181000, 0x00181002, 0x00185101),
    *(0x0020000D, 0x0020000E, 0x00200013, 0x00200060, 0x00280008, 0x00280010, 0x00280011, 0x00321064, 0x00400275),
    *(0x0040A730, 0x00540220, 0x00091001, 0x52009230, 0x7FE00010, 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x00020010),
)
_VRS = ("SQ", "SQ", "UN", "OB", "OW", "UT", "UI", "LO", "PN", "US", "IS", "DS", "CS", "AT", "ZZ", "\0\0", "uc")
_SEQUENCES = (0x00400275, 0x00081032, 0x00321064, 0x00082218, 0x00540220, 0x0018A001, 0x00080051, 0x0040A730)


def _element(draw: random.Random, depth: int = 0) -> bytes:
    if depth < 6 and draw.random() < 0.35:
        return _sequence(draw, depth)
    value = draw.choice(_TEXTS) if draw.random() < 0.8 else draw.randbytes(draw.randrange(40))
    length = draw.choice(_LENGTHS) & 0xFFFF if draw.random() < 0.04 else None
    return files.element(draw.choice(_TAGS), draw.choice(_VRS), value, length=length)


def _sequence(draw: random.Random, depth: int) -> bytes:
    content = b"".join(_item(draw, depth) for _ in range(draw.randrange(4)))
    undefined = draw.random() < 0.4
    if undefined and draw.random() < 0.95:
        content += files.SEQUENCE_END
    length = 0xFFFFFFFF if undefined else draw.choice(_LENGTHS) if draw.random() < 0.03 else None
    return files.element(draw.choice(_SEQUENCES), draw.choice(("SQ", "SQ", "SQ", "UN")), content, length=length)


def _item(draw: random.Random, depth: int) -> bytes:
    content = b"".join(_element(draw, depth + 1) for _ in range(draw.randrange(4)))
    if draw.random() < 0.4:
        return files.item(content + (files.ITEM_END if draw.random() < 0.95 else b""), length=0xFFFFFFFF)
    return files.item(content, length=draw.choice(_LENGTHS) if draw.random() < 0.02 else None)


def part10(draw: random.Random) -> bytes:
    extra = b"".join(_element(draw) for _ in range(draw.randrange(6)))
    if draw.random() < 0.05:
        extra += files.nested(draw.choice((1, 30, 63, 64, 65, 200, 260)), defined=draw.random() < 0.5)
    image = files.picture(
        rows=draw.choice((0, 8, 65535)),
        columns=draw.choice((8, 8, 65535)),
        frames=draw.choice(("", "1", "3", "-2", "9" * 12)),
        photometric=draw.choice(("MONOCHROME2", "PALETTE COLOR", "?")),
    )
    data = files.data_set("1", before=extra, image=image if draw.random() < 0.7 else b"")
    if draw.random() < 0.1:
        data = data[: draw.randrange(len(data))]
    syntax = draw.choice(_SYNTAXES)
    return files.file_of(files.deflated(data) if syntax == files.DEFLATED else data, syntax=syntax)


def stow(draw: random.Random) -> bytes:
    boundary = draw.choice((b"b", b"--", b"a b", b"x" * 69))
    body = b""
    for _ in range(draw.randrange(1, 4)):
        head = draw.choice(
            (b"Content-Type: application/dicom\r\n", b"", b"A: " + b"v" * draw.randrange(3000) + b"\r\n")
        )
        body += b"\r\n--" + boundary + b"\r\n" + head + b"\r\n" + part10(draw)
    body += draw.choice((b"\r\n--" + boundary + b"--\r\n", b"", b"\r\n--" + boundary + b"-"))
    kind = draw.choice((b"application/dicom", b"application/dicom", b"application/json"))
    line = b'multipart/related; type="%s"; boundary="%s"' % (kind, boundary)
    return line + b"\n" + (body[2:] if draw.random() < 0.8 else body)


def _command(draw: random.Random) -> bytes:
    fields = {0x0002: draw.choice((b"1.2.840.10008.5.1.4.1.1.1\0", b"1.2.840.10008.1.1\0", b"../x"))}
    kind = draw.choice((0x0001, 0x0001, 0x0030, 0x0020, 0x0021, 0x0FFF, 0x0100, 0x0110, 0x0120, 0x0130, 0x8001, 0x7777))
    fields[0x0100] = struct.pack("<H", kind)
    fields[0x0110] = struct.pack("<H", draw.randrange(65536))
    fields[0x0700] = struct.pack("<H", draw.randrange(4))
    fields[0x0800] = struct.pack("<H", draw.choice((0x0101, 0, 1, 1)))
    fields[0x1000] = draw.choice((b"1.2.3\0", b"", b"9" * 200))
    if draw.random() < 0.2:
        fields.pop(draw.choice(list(fields)))
    if draw.random() < 0.1:
        fields[draw.choice((0x0000, 0x0120, 0x1005, 0x1008, 0x0900))] = draw.randbytes(draw.randrange(9))
    command = b"".join(struct.pack("<HHI", 0, tag, len(value)) + value for tag, value in sorted(fields.items()))
    return files.nested(draw.choice((1, 200)), defined=True) + command if draw.random() < 0.02 else command


def _value(draw: random.Random, control: int, content: bytes) -> bytes:
    length = draw.choice(_LENGTHS) if draw.random() < 0.03 else len(content) + 2
    context = draw.choice((1, 1, 1, 1, 3, 2, 255)) if draw.random() < 0.2 else 1
    return struct.pack(">IBB", length, context, control) + content


def _p_data(draw: random.Random, values: bytes) -> bytes:
    length = draw.choice(_LENGTHS) if draw.random() < 0.02 else len(values)
    return struct.pack(">BxI", 4, length) + values


def _message(draw: random.Random) -> bytes:
    command, data = _command(draw), files.data_set("1")[: draw.randrange(300)]
    values = []
    if draw.random() < 0.85:
        values.append(_value(draw, 3, command))
    else:  # the command set in pieces
        middle = draw.randrange(len(command))
        values += [_value(draw, 1, command[:middle]), _value(draw, 3, command[middle:])]
    while data and draw.random() < 0.9:
        size = draw.choice((0, 1, 40, 300))
        last = 2 if len(data) <= size else 0
        values.append(_value(draw, last if draw.random() < 0.95 else draw.randrange(256), data[:size]))
        data = data[size:]
    if draw.random() < 0.4:
        return _p_data(draw, b"".join(values))
    return b"".join(_p_data(draw, value) for value in values)


def _association(draw: random.Random) -> bytes:
    """An A-ASSOCIATE-RQ (PS3.8 9.3.2), which has no place in an association that stands."""
    items = b""
    for _ in range(draw.choice((0, 1, 5, 200))):
        content = draw.choice(_TEXTS)
        items += (
            struct.pack(">BxH", draw.choice((0x10, 0x20, 0x30, 0x40, 0x50, 0x51, 0x54, 0x58)), len(content)) + content
        )
    body = struct.pack(">HH16s16s32x", 1, 0, b"HILUM", b"SCU") + items
    return struct.pack(">BxI", draw.choice((1, 2)), len(body)) + body


def pdu(draw: random.Random) -> bytes:
    sent = b""
    for _ in range(draw.randrange(1, 4)):
        pick = draw.random()
        if pick < 0.85:
            sent += _message(draw)
        elif pick < 0.9:
            sent += _association(draw)
        else:
            sent += struct.pack(
                ">BxI", draw.choice((3, 5, 6, 7, 0, 8, 255)), draw.choice((4, 4, 0, 0xFFFFFFFF))
            ) + bytes(4)
    return sent if draw.random() < 0.9 else sent[: draw.randrange(len(sent) + 1)]


GRAMMARS: Mapping[str, Make] = {"pdu": pdu, "part10": part10, "stow": stow}


def damage(data: bytes, draw: random.Random) -> bytes:
    """The same with a few bytes changed, taken out, doubled or put in."""
    changed = bytearray(data)
    for _ in range(draw.randrange(1, 5)):
        at = draw.randrange(len(changed) + 1)
        size = draw.choice((1, 2, 4, 8, 30))
        match draw.randrange(4):
            case 0:
                changed[at : at + 1] = draw.randbytes(1)
            case 1:
                del changed[at : at + size]
            case 2:
                changed[at:at] = changed[at : at + size]
            case _:
                changed[at : at + 4] = struct.pack(draw.choice(("<I", ">I")), draw.choice(_LENGTHS))
    return bytes(changed)
