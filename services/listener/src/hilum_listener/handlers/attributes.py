"""Reads the data sets of normalized requests: bounded, on raw bytes, with no parser that could hang."""

import struct
import zlib
from dataclasses import dataclass
from typing import TypeAlias

from hilum.adapters.dicom.elements import Elements, Encoding, scan
from hilum.domain.errors import Reject
from hilum_listener.handlers.part10 import is_uid

MAX_BYTES = 8 << 20
"""Bounds the time of the scan, a second at the worst; a list of 20,000 references takes about 5 MB. The memory of a
message is bounded where it is read: at most 16 MB, or the association ends (`transport.fast`)."""
MAX_REFERENCES = 20_000
_IMPLICIT_LE, _EXPLICIT_BE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
_SOP_CLASS, _SOP_INSTANCE = 0x00081150, 0x00081155

Reference: TypeAlias = tuple[str, str]
"""SOP Class UID and SOP Instance UID."""


@dataclass(frozen=True, slots=True)
class ServiceRequest:
    """A DIMSE-N request. `content` is its encoded data set as received, empty without one."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    content: bytes
    calling_ae: str
    peer: str
    association: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Status of the response (PS3.7 annex C), with what may come beside it.

    `error_id` and `comment` are Error ID (0000,0903) and Error Comment (0000,0902), `sop_instance_uid` an assigned one.
    """

    status: int
    comment: str = ""
    error_id: int | None = None
    sop_instance_uid: str = ""


SUCCESS = Answer(0x0000)
PROCESSING_FAILURE = 0x0110
DUPLICATE_SOP_INSTANCE = 0x0111
NO_SUCH_SOP_INSTANCE = 0x0112
INVALID_ATTRIBUTE_VALUE = 0x0106
INVALID_ARGUMENT_VALUE = 0x0115
INVALID_OBJECT_INSTANCE = 0x0117
CLASS_INSTANCE_CONFLICT = 0x0119
MISSING_ATTRIBUTE = 0x0120
RESOURCE_LIMITATION = 0x0213


class Refused(Exception):
    """The request is answered with this failure."""

    def __init__(self, status: int, comment: str) -> None:
        super().__init__(comment)
        self.answer = Answer(status, comment)


def attributes(request: ServiceRequest) -> Elements:
    """The data set's elements.

    Raises:
        Refused: it is too large or no data set.
    """
    if len(request.content) > MAX_BYTES:
        raise Refused(RESOURCE_LIMITATION, f"more than {MAX_BYTES >> 20} MiB")
    encoding = Encoding(
        implicit=request.transfer_syntax_uid == _IMPLICIT_LE, big_endian=request.transfer_syntax_uid == _EXPLICIT_BE
    )
    try:
        found = scan(request.content, 0, len(request.content), encoding)
    except (Reject, ValueError, ArithmeticError, IndexError, struct.error, zlib.error) as error:
        raise Refused(PROCESSING_FAILURE, "the data set can't be read") from error
    if found.cut_off:
        raise Refused(PROCESSING_FAILURE, "the data set ends inside an element")
    return found


def items(elements: Elements, tag: int) -> list[Elements]:
    """The items of a sequence.

    Raises:
        Refused: too many, or one that can't be read.
    """
    try:
        found = elements.items(tag, limit=MAX_REFERENCES + 1)
    except (Reject, ValueError, ArithmeticError, IndexError, struct.error) as error:
        raise Refused(PROCESSING_FAILURE, "a sequence can't be read") from error
    if len(found) > MAX_REFERENCES:
        raise Refused(RESOURCE_LIMITATION, f"more than {MAX_REFERENCES} items")
    return found


def uid(elements: Elements, tag: int) -> str:
    """A UID; empty when it is absent or none."""
    text = elements.ascii(tag)
    return text if is_uid(text) else ""


def reference(item: Elements) -> Reference:
    """Referenced SOP Class and Instance UID (PS3.3 table 10-11) of an item; a UID that is none is empty."""
    return uid(item, _SOP_CLASS), uid(item, _SOP_INSTANCE)


def references(elements: Elements, tag: int) -> list[Reference]:
    """The instances that a sequence refers to, each once; items without both UIDs are left out.

    Raises:
        Refused: as `items`.
    """
    found = dict.fromkeys(reference(item) for item in items(elements, tag))
    return [one for one in found if all(one)]
