"""P-DATA of C-STORE requests, read where it lies in the receive buffer (PS3.8 9.3.5, PS3.7 9.3.1 and annex E)."""

import struct
from dataclasses import dataclass
from enum import Enum, auto

P_DATA_TF = 4
PDU_HEADER = 6
"""Type, reserved, length of the rest (big endian)."""
_PDV_HEADER = 6
"""Length of the rest, context id, message control header."""
_COMMAND, _LAST = 1, 2
_MAX_COMMAND = 4096
_C_STORE_RQ, _C_STORE_RSP, _NO_DATA_SET = 0x0001, 0x8001, 0x0101
_CLASS, _FIELD, _MESSAGE_ID, _DATA_SET_TYPE, _INSTANCE = 0x0002, 0x0100, 0x0110, 0x0800, 0x1000

_pdu = struct.Struct(">BxI").unpack_from
_pdv = struct.Struct(">IBB").unpack_from
_element = struct.Struct("<HHI").unpack_from
_unsigned = struct.Struct("<H").unpack_from
pdu_header = _pdu
"""Type and length of the PDU at an offset."""


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """A C-STORE-RQ. The UIDs are as received, their padding removed; nothing has checked them."""

    context_id: int
    message_id: int
    sop_class: bytes
    sop_instance: bytes
    has_data_set: bool

    def response(self, status: int) -> bytes:
        """The whole P-DATA-TF PDU of the C-STORE-RSP (PS3.7 table 9.3-2)."""
        elements = b"".join(
            (
                _text(_CLASS, self.sop_class),
                _short(_FIELD, _C_STORE_RSP),
                _short(0x0120, self.message_id),
                _short(_DATA_SET_TYPE, _NO_DATA_SET),
                _short(0x0900, status),
                _text(_INSTANCE, self.sop_instance),
            )
        )
        command = struct.pack("<HHII", 0, 0, 4, len(elements)) + elements
        length = len(command)
        return struct.pack(">BxIIBB", P_DATA_TF, length + 6, length + 2, self.context_id, _COMMAND | _LAST) + command


def _short(element: int, value: int) -> bytes:
    return struct.pack("<HHIH", 0, element, 2, value)


def _text(element: int, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", 0, element, len(value)) + value


class Look(Enum):
    """What stands at the start of a message."""

    OTHER = auto()
    MORE = auto()
    """Only more bytes can tell."""


def store_request(buffer: memoryview, at: int, end: int) -> tuple[StoreRequest, int] | Look:
    """The C-STORE-RQ whose P-DATA-TF PDU starts at `at`, and the bytes of its first PDV with both headers.

    OTHER is everything that isn't a C-STORE-RQ in a single fragment with all it needs: that is for the ordinary reader.
    """
    if end - at < PDU_HEADER + _PDV_HEADER:
        return Look.MORE
    _, pdu_length = _pdu(buffer, at)
    pdv_length, context_id, control = _pdv(buffer, at + PDU_HEADER)
    if control != _COMMAND | _LAST or not 2 < pdv_length <= _MAX_COMMAND or pdv_length + 4 > pdu_length:
        return Look.OTHER
    start, stop = at + PDU_HEADER + _PDV_HEADER, at + PDU_HEADER + 4 + pdv_length
    if end < stop:
        return Look.MORE
    request = _decode(bytes(buffer[start:stop]), context_id)
    return Look.OTHER if request is None else (request, stop - at)


def _decode(command: bytes, context_id: int) -> StoreRequest | None:
    """The elements of group 0000, Implicit VR Little Endian (PS3.7 6.3.1)."""
    found: dict[int, bytes] = {}
    at, end = 0, len(command)
    while at < end:
        if end - at < 8:
            return None
        group, element, length = _element(command, at)
        at += 8
        if group or length > end - at:
            return None
        found[element] = command[at : at + length]
        at += length
    try:
        if _unsigned(found[_FIELD])[0] != _C_STORE_RQ:
            return None
        return StoreRequest(
            context_id=context_id,
            message_id=_unsigned(found[_MESSAGE_ID])[0],
            sop_class=found[_CLASS].rstrip(b"\0 "),
            sop_instance=found[_INSTANCE].rstrip(b"\0 "),
            has_data_set=_unsigned(found[_DATA_SET_TYPE])[0] != _NO_DATA_SET,
        )
    except (KeyError, struct.error):
        return None


class Walked(Enum):
    """Why a walk ended."""

    MORE = auto()
    """The bytes did."""
    WHOLE = auto()
    """The data set did."""
    OTHER_PDU = auto()
    """Another kind of PDU begins: a release or an abort."""
    BROKEN = auto()
    """A fragment that no clause allows here."""


class DataSetWalk:
    """Finds the data set's fragments, which may be cut anywhere.

    `rest_of_pdu`: bytes of the command's PDU that follow its PDV.
    """

    __slots__ = ("_context_id", "_last", "_pdu", "_pdv", "pieces")

    def __init__(self, context_id: int, rest_of_pdu: int) -> None:
        self._context_id = context_id
        self._pdu = rest_of_pdu
        self._pdv = 0
        self._last = False
        self.pieces: list[memoryview] = []
        """What the last walk found; views of the buffer."""

    def walk(self, buffer: memoryview, at: int, end: int) -> tuple[Walked, int]:
        """Goes through the bytes from `at` to `end`; returns why it stopped and where."""
        pdu, pdv = self._pdu, self._pdv
        self.pieces = pieces = []
        why = Walked.MORE
        while at < end:
            if pdv:
                size = min(pdv, end - at)
                pieces.append(buffer[at : at + size])
                at, pdv, pdu = at + size, pdv - size, pdu - size
            else:
                if not pdu:
                    if buffer[at] != P_DATA_TF:
                        why = Walked.OTHER_PDU
                        break
                    if end - at < PDU_HEADER + _PDV_HEADER:
                        break
                    pdu = _pdu(buffer, at)[1]
                    at += PDU_HEADER
                elif end - at < _PDV_HEADER:
                    break
                pdv_length, context_id, control = _pdv(buffer, at)
                if context_id != self._context_id or control & ~_LAST or pdv_length < 2 or pdv_length + 4 > pdu:
                    why = Walked.BROKEN
                    break
                at, pdu, pdv = at + _PDV_HEADER, pdu - _PDV_HEADER, pdv_length - 2
                self._last = bool(control)
            if not pdv and self._last:
                why = Walked.BROKEN if pdu else Walked.WHOLE
                break
        self._pdu, self._pdv = pdu, pdv
        return why, at
