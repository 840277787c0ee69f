"""A look at raw bytes before any parser: depth, lengths, number of elements, inflated size, claimed pixels.

What passes can be scanned, iterated and handed to pydicom in time and memory that grow with the file's size alone.
One pass, no recursion, nothing kept but the open sequences; each step goes at least eight bytes forward.
"""

import struct
import zlib
from dataclasses import dataclass
from mmap import mmap
from typing import TypeAlias

from hilum.domain.errors import Reject

Buffer: TypeAlias = mmap | bytes | bytearray

MAX_NESTING = 64
"""Sequences inside sequences. Structured reports have some 10, the deepest known trees 20. pydicom 3.0 reads, walks,
copies and writes 64 levels and runs out of stack from about 80 on."""
MAX_ELEMENTS = 400_000
"""Elements, items and delimiters of one object, at all depths, before its pixels: an enhanced CT of 5,000 frames has
some 300,000. The slowest mix of so many takes a second."""
MAX_META_BYTES = 1 << 20
MAX_INFLATED_BYTES = 1 << 28
FIRST_INFLATED_BYTES, MAX_INFLATED_HEAD_BYTES = 1 << 20, 1 << 26
"""So much of a deflated data set is looked at for its header: first the one, and the other when that is too little."""
_INFLATE_STEP = 1 << 18
MAX_FRAME_PIXELS = 100_000_000
"""A frame that claims more is rejected: the largest radiographs have some 30 million."""
MIN_FRAGMENT_BYTES = 8
"""An encapsulated frame has at least an item's tag and length (PS3.5 A.4)."""
UNDEFINED = 0xFFFFFFFF
PIXEL_DATA_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})

# PS3.5 7.1.2: these VRs have two reserved bytes and a 32-bit length
LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT_VRS = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"}
    | {b"ST", b"TM", b"UI", b"UL", b"US"}
)
VRS = LONG_VRS | _SHORT_VRS
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DELIMITERS, _PIXELS = 0xFFFE, 0x7FE0
_FIRST_ITEM = {"<": b"\xfe\xff\x00\xe0", ">": b"\xff\xfe\xe0\x00"}


@dataclass(slots=True)
class _Open:
    """An open sequence (of items, or of fragments) or data set.

    Attributes:
        end: offset behind it; of an undefined length, the end of what holds it.
        fragments: the items hold bytes, not elements.
        private: it lies in a private element.
        opaque_end: where the outermost defined length ends in that private element: what is wrong in there makes
            those bytes opaque and nothing else, since nobody descends into them. 0 when there is none.
    """

    end: int
    defined: bool
    is_sequence: bool
    implicit: bool
    fragments: bool = False
    private: bool = False
    opaque_end: int = 0


class _Malformed(Exception):
    pass


class _CutOff(Exception):
    pass


def looks_like_vr(vr: bytes) -> bool:
    return len(vr) == 2 and 0x41 <= vr[0] <= 0x5A and 0x41 <= vr[1] <= 0x5A


def check_structure(buffer: Buffer, start: int, end: int, *, implicit: bool, big_endian: bool) -> int:
    """Walks every element of a data set in `buffer[start:end]` at all depths, up to its pixel data.

    Bytes that end inside a top-level element are no offence, a cut-off file is for others to judge. Returns the number
    of elements, items and delimiters.

    Raises:
        Reject: sequences nested too deep, too many elements, or a nested length past the end of what holds it.
    """
    return _Walk(buffer, start, end, implicit=implicit, big_endian=big_endian).run()


class _Walk:
    def __init__(self, buffer: Buffer, start: int, end: int, *, implicit: bool, big_endian: bool) -> None:
        order = ">" if big_endian else "<"
        self._buffer = buffer
        self._short = struct.Struct(order + "HHI").unpack_from
        self._length16 = struct.Struct(order + "H").unpack_from
        self._length32 = struct.Struct(order + "I").unpack_from
        self._explicit = struct.Struct(order + "H2x2sH").unpack_from
        self._count = 0
        self._first_item = _FIRST_ITEM[order]
        self._at = start
        self._open = [_Open(end, defined=True, is_sequence=False, implicit=implicit)]

    def run(self) -> int:
        while self._open:
            level = self._open[-1]
            if not level.is_sequence:
                self._skip_plain(level)
            if self._at + 8 > level.end:
                if not self._leave(level):
                    break
                continue
            self._count += 1
            if self._count > MAX_ELEMENTS:
                raise Reject(f"the object has more than {MAX_ELEMENTS} elements")
            try:
                goes_on = self._item(level) if level.is_sequence else self._element(level)
            except _CutOff:
                break
            except _Malformed as error:
                goes_on = self._give_up(level, str(error))
            if not goes_on:
                break
        return self._count

    def _skip_plain(self, level: _Open) -> None:
        """Goes past elements that need no thought: whole ones that hold no sequence. Most of a header is that."""
        at, last, buffer, count = self._at, level.end - 8, self._buffer, self._count
        if level.implicit:
            while at <= last and count < MAX_ELEMENTS:
                group, _, length = self._short(buffer, at)
                behind = at + 8 + length
                if group >= _PIXELS or behind > level.end:
                    break
                if length >= 8 and buffer[at + 8 : at + 12] == self._first_item:
                    break
                at, count = behind, count + 1
        else:
            while at <= last and count < MAX_ELEMENTS:
                group, vr, length = self._explicit(buffer, at)
                behind = at + 8 + length
                if vr not in _SHORT_VRS or group >= _PIXELS or behind > level.end:
                    break
                at, count = behind, count + 1
        self._at, self._count = at, count

    def _leave(self, level: _Open) -> bool:
        """The bytes of a level are used up; False at the end of them all."""
        if not level.defined and level.opaque_end:
            return self._give_up(level, "")
        if not level.defined and any(other.defined for other in self._open[1:]):
            raise Reject("a sequence of undefined length has no end inside the item that holds it")
        self._at = level.end
        self._open.pop()
        return bool(self._open) and level.defined

    def _give_up(self, level: _Open, reason: str) -> bool:
        if not level.opaque_end:
            raise Reject(reason)
        self._at = level.opaque_end
        while self._open[-1].opaque_end == level.opaque_end:
            self._open.pop()
        return True

    def _item(self, level: _Open) -> bool:
        at = self._at
        group, number, length = self._short(self._buffer, at)
        tag = group << 16 | number
        if tag == SEQUENCE_END:
            self._at = at + 8
            if not level.defined:
                self._open.pop()
        elif tag != ITEM:
            raise _Malformed("a sequence holds something else than items")
        elif length == UNDEFINED:
            self._at = at + 8
            self._push(level, level.end, defined=False)
        else:
            end = self._within(level, at + 8 + length)
            self._at = end if level.fragments else at + 8
            if not level.fragments:
                self._push(level, end, defined=True)
        return True

    def _push(self, level: _Open, end: int, *, defined: bool) -> None:
        opaque_end = level.opaque_end or (end if defined and level.private else 0)
        self._open.append(_Open(end, defined, False, level.implicit, False, level.private, opaque_end))

    def _element(self, level: _Open) -> bool:
        at, buffer = self._at, self._buffer
        group, number, length = self._short(buffer, at)
        tag, start, vr = group << 16 | number, at + 8, b""
        if group == _DELIMITERS:
            return self._delimiter(level, tag)
        if not level.implicit:
            vr = bytes(buffer[at + 4 : at + 6])
            if vr in LONG_VRS:
                if at + 12 > level.end:
                    return self._short_of_bytes(level)
                start, length = at + 12, self._length32(buffer, at + 8)[0]
            elif looks_like_vr(vr):
                length = self._length16(buffer, at + 6)[0]
            else:  # one element in implicit VR inside an explicit data set
                vr = b""
        if tag in PIXEL_DATA_TAGS and len(self._open) == 1:
            return False
        self._at = start
        if length == UNDEFINED:
            self._enter(level, level.end, False, tag, vr)
            return True
        end = self._within(level, start + length)
        is_sequence = vr == b"SQ" or (vr in (b"", b"UN") and bytes(buffer[start : start + 4]) == self._first_item)
        if is_sequence and length >= 8:
            self._enter(level, end, True, tag, vr)
        else:
            self._at = end
        return True

    def _delimiter(self, level: _Open, tag: int) -> bool:
        if tag != ITEM_END:
            raise _Malformed("an item or the end of a sequence stands where an element must be")
        if len(self._open) == 1:
            return False
        self._at = level.end if level.defined else self._at + 8
        self._open.pop()
        return True

    def _enter(self, level: _Open, end: int, defined: bool, tag: int, vr: bytes) -> None:
        # below the data set itself, levels alternate between a sequence and its item
        if len(self._open) // 2 >= MAX_NESTING:
            raise Reject(f"sequences are nested more than {MAX_NESTING} deep")
        private = level.private or (tag >> 16) % 2 == 1
        self._open.append(
            _Open(
                end,
                defined,
                is_sequence=True,
                implicit=level.implicit or vr == b"UN",  # PS3.5 6.2.2 note 2
                fragments=not defined and (tag in PIXEL_DATA_TAGS or vr in (b"OB", b"OW")),
                private=private,
                opaque_end=level.opaque_end or (end if defined and private else 0),
            )
        )

    def _within(self, level: _Open, end: int) -> int:
        """`end`, when the level reaches that far."""
        if end > level.end:
            self._short_of_bytes(level)
        return end

    def _short_of_bytes(self, level: _Open) -> bool:
        """A cut-off file when no defined length holds the level, else a length that lies."""
        if any(other.defined for other in self._open[1:]):
            raise _Malformed("a nested element is longer than the item or sequence that holds it")
        raise _CutOff


def check_claims(*, rows: int, columns: int, frames: int, encapsulated: bool, pixel_bytes: int) -> None:
    """Compares what the Image Pixel module (PS3.3 C.7.6.3) claims with the most that any image has.

    Args:
        pixel_bytes: length of the pixel data's value, as far as it is there.

    Raises:
        Reject: a frame larger than any image, or more frames than there can be in these bytes.
    """
    if rows * columns > MAX_FRAME_PIXELS:
        raise Reject(f"the image claims {rows} x {columns} pixels, more than {MAX_FRAME_PIXELS} in a frame")
    smallest = MIN_FRAGMENT_BYTES if encapsulated else 1
    if frames > 1 and frames * smallest > pixel_bytes:
        raise Reject(f"the image claims {frames} frames, and there are {pixel_bytes} bytes of pixels")


def inflate(buffer: Buffer, start: int, *, limit: int) -> tuple[bytearray, bool]:
    """The first `limit` bytes of the deflated data set at `start` (PS3.5 A.5), and whether that is all of it.

    Memory grows with the inflated bytes up to the limit, whatever the buffer's size.

    Raises:
        zlib.error: it is not deflated.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = bytearray()
    at = start
    while at < len(buffer) and not inflater.eof:
        step = bytes(buffer[at : at + _INFLATE_STEP])
        at += len(step)
        while step:
            inflated += inflater.decompress(step, min(limit + 1 - len(inflated), _INFLATE_STEP))
            if len(inflated) > limit:
                del inflated[limit:]
                return inflated, False
            step = b"" if inflater.eof else inflater.unconsumed_tail  # padding behind the end stays in the tail
    return inflated, True
