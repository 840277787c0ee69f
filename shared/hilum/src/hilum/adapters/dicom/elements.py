"""Finds data elements in a Part 10 file without reading it: a bounded, iterative scan of tags and lengths.

pydicom's reader recurses into nested sequences and believes every length; a hostile or broken file then costs a stack
or gigabytes. This scan keeps offsets only, skips what nobody asks for, and ends in a value or in a `Reject`.
"""

import mmap
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from hilum.adapters.dicom.precheck import (
    FIRST_INFLATED_BYTES,
    ITEM,
    ITEM_END,
    LONG_VRS,
    MAX_INFLATED_BYTES,
    MAX_INFLATED_HEAD_BYTES,
    MAX_META_BYTES,
    PIXEL_DATA_TAGS,
    SEQUENCE_END,
    UNDEFINED,
    VRS,
    Buffer,
    check_structure,
    inflate,
    looks_like_vr,
)
from hilum.domain.errors import Reject

MAX_ELEMENTS = 50_000

_IMPLICIT_LE = "1.2.840.10008.1.2"
_EXPLICIT_BE = "1.2.840.10008.1.2.2"
_DEFLATED_LE = "1.2.840.10008.1.2.1.99"


@dataclass(frozen=True, slots=True)
class Element:
    """Where a value lies: `start` and `end` are byte offsets in the buffer, `vr` is empty in implicit VR."""

    tag: int
    vr: bytes
    start: int
    end: int
    undefined_length: bool = False


@dataclass(frozen=True, slots=True)
class Encoding:
    implicit: bool
    big_endian: bool

    @property
    def order(self) -> str:
        """The struct module's byte order character."""
        return ">" if self.big_endian else "<"


_EXPLICIT = Encoding(implicit=False, big_endian=False)
_IMPLICIT = Encoding(implicit=True, big_endian=False)


@dataclass(frozen=True, slots=True)
class Elements:
    """The elements of one dataset or of one sequence item.

    Attributes:
        by_tag: first occurrence of each tag, scanned up to and including the pixel data element.
        cut_off: True when the bytes end inside an element.
    """

    buffer: Buffer
    encoding: Encoding
    by_tag: dict[int, Element]
    cut_off: bool = False

    def raw(self, tag: int, *, limit: int = 4096) -> bytes:
        """The value's bytes, at most `limit` of them; empty when the element is absent."""
        element = self.by_tag.get(tag)
        if element is None or element.undefined_length:
            return b""
        return bytes(self.buffer[element.start : min(element.end, element.start + limit)])

    def ascii(self, tag: int) -> str:
        """A UID, code string or number as text: first value only, padding removed, not ASCII replaced."""
        return self.raw(tag, limit=256).split(b"\\")[0].decode("ascii", "replace").strip("\0 \t\r\n")

    def unsigned(self, tag: int) -> int | None:
        """First value of a US or UL element."""
        raw = self.raw(tag, limit=4)
        element = self.by_tag.get(tag)
        if element is not None and len(raw) == 4 and element.end - element.start == 4 and element.vr != b"US":
            return int(struct.unpack(self.encoding.order + "I", raw)[0])
        return int(struct.unpack(self.encoding.order + "H", raw[:2])[0]) if len(raw) >= 2 else None

    def shorts(self, tag: int, *, signed: bool = False, limit: int = 1 << 18) -> tuple[int, ...]:
        """All values of a US, SS or OW element."""
        raw = self.raw(tag, limit=limit)
        count = len(raw) // 2
        return struct.unpack(f"{self.encoding.order}{count}{'h' if signed else 'H'}", raw[: 2 * count])

    def integer(self, tag: int) -> int | None:
        """First value of an IS element; None when absent or not a number."""
        text = self.ascii(tag)
        return int(text) if re.fullmatch(r"[+-]?\d{1,10}", text) else None

    def decimals(self, tag: int, *, limit: int = 512) -> tuple[float, ...]:
        """All values of a DS element that are finite numbers, up to the first that is not."""
        found: list[float] = []
        for part in self.raw(tag, limit=limit).split(b"\\"):
            try:
                number = float(part.decode("ascii", "replace").strip("\0 "))
            except ValueError:
                break
            if abs(number) > 1e30 or number != number:
                break
            found.append(number)
        return tuple(found)

    def items(self, tag: int, *, limit: int = 16) -> "list[Elements]":
        """The first `limit` items of a sequence; empty when it is absent, empty or malformed."""
        return list(islice(self._iterate(tag), limit))

    def item(self, tag: int, index: int = 0) -> "Elements | None":
        """One item of a sequence, `index` counted from 0."""
        return next(islice(self._iterate(tag), index, None), None)

    def _iterate(self, tag: int) -> "Iterator[Elements]":
        element = self.by_tag.get(tag)
        if element is None:
            return
        encoding = _IMPLICIT if element.vr == b"UN" else self.encoding  # PS3.5 6.2.2 note 2
        at, end = element.start, element.end
        while at + 8 <= end:
            found, length = _tag_and_length(self.buffer, at, encoding)
            if found != ITEM:
                return
            start = at + 8
            stop = _skip(self.buffer, start, end, encoding) if length == UNDEFINED else start + length
            if stop > end:
                return
            yield scan(self.buffer, start, stop, encoding)
            at = stop


def scan(buffer: Buffer, start: int, end: int, encoding: Encoding) -> Elements:
    """Lists the elements in `buffer[start:end]`, stopping behind the pixel data's tag.

    Raises:
        Reject: more elements than any object has.
    """
    by_tag: dict[int, Element] = {}
    at = start
    for _ in range(MAX_ELEMENTS):
        if at + 8 > end:
            return Elements(buffer, encoding, by_tag, cut_off=False)
        element = _element(buffer, at, end, encoding)
        if element is None or element.tag == ITEM_END:
            return Elements(buffer, encoding, by_tag, cut_off=element is None)
        if element.tag in PIXEL_DATA_TAGS:
            by_tag.setdefault(element.tag, element)
            return Elements(buffer, encoding, by_tag)
        if element.end > end:
            return Elements(buffer, encoding, by_tag, cut_off=True)
        by_tag.setdefault(element.tag, element)
        at = element.end
    raise Reject(f"the header has more than {MAX_ELEMENTS} elements")


@contextmanager
def opened(path: Path, *, whole: bool = False) -> "Iterator[File]":
    """Maps a Part 10 file, checks its structure and scans its meta information and dataset.

    Args:
        whole: of a deflated dataset, everything is needed and not the header alone.

    Raises:
        Reject: the file is no Part 10 file, or does not pass the pre-check.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            yield parse(view, whole=whole)
    except (ValueError, struct.error, zlib.error) as error:
        raise Reject(f"the file cannot be read as DICOM ({type(error).__name__})") from error


@dataclass(frozen=True, slots=True)
class File:
    """A Part 10 file: its meta information, its dataset, and the transfer syntax that it declares."""

    meta: Elements
    dataset: Elements
    transfer_syntax_uid: str

    @property
    def pixel_data(self) -> Element | None:
        return next((self.dataset.by_tag[tag] for tag in PIXEL_DATA_TAGS if tag in self.dataset.by_tag), None)

    @property
    def pixel_bytes(self) -> int:
        """Length of the pixel data's value, as far as it is in the file; of a deflated dataset, as declared."""
        element = self.pixel_data
        if element is None:
            return 0
        is_inflated = self.transfer_syntax_uid == _DEFLATED_LE
        end = element.end if is_inflated else min(element.end, len(self.dataset.buffer))
        return max(end - element.start, 0)


def parse(view: Buffer, *, inflated_head: int | None = None, whole: bool = False) -> File:
    """Checks and scans a Part 10 file in memory.

    Args:
        inflated_head: these bytes are the start of a file; look at so many bytes of a deflated dataset.
        whole: as in `opened`.

    Raises:
        Reject, ValueError, struct.error, zlib.error: as `opened`, which makes a `Reject` of each.
    """
    meta, at = file_meta(view)
    syntax = meta.ascii(0x00020010)
    if syntax != _DEFLATED_LE:
        return File(meta, _checked(view, at, len(view), _encoding(view, at, syntax)), syntax)
    if whole or inflated_head is not None:
        limit = MAX_INFLATED_BYTES if inflated_head is None else inflated_head
        inflated, complete = inflate(view, at, limit=limit)
        if whole and not complete:
            raise Reject(f"the deflated dataset is larger than {limit >> 20} MiB")
        return File(meta, _checked(inflated, 0, len(inflated), _EXPLICIT), syntax)
    for limit in (FIRST_INFLATED_BYTES, MAX_INFLATED_HEAD_BYTES):
        inflated, complete = inflate(view, at, limit=limit)
        dataset = _checked(inflated, 0, len(inflated), _EXPLICIT)
        if complete or not PIXEL_DATA_TAGS.isdisjoint(dataset.by_tag):
            return File(meta, dataset, syntax)
    raise Reject(f"the deflated header is larger than {MAX_INFLATED_HEAD_BYTES >> 20} MiB")


def file_meta(view: Buffer) -> tuple[Elements, int]:
    """The file meta information alone, and the offset of the dataset behind it.

    Raises:
        Reject, ValueError, struct.error: no Part 10 file, or one that ends in there.
    """
    if bytes(view[128:132]) != b"DICM":  # PS3.10 7.1
        raise Reject("not a DICOM file: the DICM prefix is missing")
    at, end = 132, min(len(view), 132 + MAX_META_BYTES)
    while at + 8 <= end and struct.unpack_from("<H", view, at)[0] == 2:
        element = _element(view, at, end, _EXPLICIT)
        if element is None or element.undefined_length or element.end > end:
            raise Reject("the file ends inside its file meta information, or that is too long")
        at = element.end
    return scan(view, 132, at, _EXPLICIT), at


def _checked(buffer: Buffer, start: int, end: int, encoding: Encoding) -> Elements:
    check_structure(buffer, start, end, implicit=encoding.implicit, big_endian=encoding.big_endian)
    return scan(buffer, start, end, encoding)


def _encoding(buffer: Buffer, at: int, syntax: str) -> Encoding:
    """What the dataset really is: senders that declare explicit VR and write implicit VR exist, and the reverse."""
    big_endian = syntax == _EXPLICIT_BE
    implicit = syntax == _IMPLICIT_LE
    vr = bytes(buffer[at + 4 : at + 6])
    if implicit and vr in VRS:
        implicit = False
    elif not implicit and len(vr) == 2 and not looks_like_vr(vr):
        implicit = True
    return Encoding(implicit=implicit, big_endian=big_endian)


def _tag_and_length(buffer: Buffer, at: int, encoding: Encoding) -> tuple[int, int]:
    group, number, length = struct.unpack_from(encoding.order + "HHI", buffer, at)
    return group << 16 | number, length


def _element(buffer: Buffer, at: int, end: int, encoding: Encoding) -> Element | None:
    """The element that begins at `at`; None when its own header or its undefined-length value is cut off."""
    tag, length = _tag_and_length(buffer, at, encoding)
    start, vr = at + 8, b""
    if not encoding.implicit and tag >> 16 != 0xFFFE:
        vr = bytes(buffer[at + 4 : at + 6])
        if vr in LONG_VRS:
            if at + 12 > end:
                return None
            start = at + 12
            length = struct.unpack_from(encoding.order + "I", buffer, at + 8)[0]
        elif looks_like_vr(vr):
            length = struct.unpack_from(encoding.order + "H", buffer, at + 6)[0]
        else:  # one element in implicit VR inside an explicit dataset
            vr = b""
    if length != UNDEFINED:
        return Element(tag, vr, start, start + length)
    if tag in PIXEL_DATA_TAGS:
        return Element(tag, vr, start, end, undefined_length=True)
    stop = _skip(buffer, start, end, _IMPLICIT if vr == b"UN" else encoding)
    return Element(tag, vr, start, stop) if stop <= end else None


def _skip(buffer: Buffer, at: int, end: int, encoding: Encoding) -> int:
    """The offset behind the delimiter that closes an undefined length at `at`; more than `end` when there is none.

    Counts open sequences and items instead of recursing, so any depth costs the same.
    """
    encodings = [encoding]
    while encodings and at + 8 <= end:
        inner = encodings[-1]
        tag, length = _tag_and_length(buffer, at, inner)
        start, vr = at + 8, b""
        if tag in (SEQUENCE_END, ITEM_END):
            encodings.pop()
            at = start
            continue
        if not inner.implicit and tag >> 16 != 0xFFFE:
            vr = bytes(buffer[at + 4 : at + 6])
            if vr in LONG_VRS:
                if at + 12 > end:
                    break
                start, length = at + 12, struct.unpack_from(inner.order + "I", buffer, at + 8)[0]
            elif looks_like_vr(vr):
                length = struct.unpack_from(inner.order + "H", buffer, at + 6)[0]
        if length == UNDEFINED:
            encodings.append(_IMPLICIT if vr == b"UN" else inner)
            at = start
        else:
            at = start + length
    return at if not encodings else end + 1
