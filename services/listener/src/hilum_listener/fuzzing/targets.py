"""What is fuzzed. A target takes bytes and says whether they got beyond the pre-check; whatever it raises is a bug."""

import queue
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any, cast

from pynetdicom import AE, build_context
from pynetdicom.pdu import P_DATA_TF as PDataPdu

from hilum.adapters.dicom.elements import parse
from hilum.adapters.dicom.header import header_of
from hilum.domain.errors import Reject
from hilum_listener.handlers.own_objects import names_own_device
from hilum_listener.handlers.receive import Reception, Status
from hilum_listener.handlers.stow import examine
from hilum_listener.transport.fast import FastAssociation
from hilum_listener.transport.pdata import StoreRequest

Target = Callable[[bytes], bool]
_UNREADABLE = "Evt19"
_MAX_EVENTS = 5000
_PIECE = 997


def part10(data: bytes) -> bool:
    """What the index does with a stored file: pre-check, scan, header, and whether it is Hilum's own."""
    try:
        file = parse(data)
    except (Reject, ValueError, struct.error, zlib.error):  # `opened` makes one Reject of them all
        return False
    try:
        header_of(file)
        names_own_device(file)
    except Reject:
        pass
    return True


def stow(data: bytes) -> bool:
    """A request: its media type up to the first line feed, then its body, in pieces that cut through everything."""
    media_type, _, body = data.partition(b"\n")
    pieces = [body[at : at + _PIECE] for at in range(0, len(body), _PIECE)]
    try:
        outcomes = examine(media_type.decode("latin-1"), pieces)
    except Reject:
        return False
    return any(outcome.sop_instance_uid and outcome.warning is None for outcome in outcomes)


class _Sink:
    """Stands in for a reception: looks at the pieces and keeps nothing."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, pieces: list[memoryview]) -> None:
        self.size += sum(len(piece) for piece in pieces)

    def finish(self) -> int:
        return int(Status.SUCCESS)

    def abandon(self) -> None:
        pass


class _Connection:
    """Stands in for a socket: what is sent is made of bytes, and gone."""

    def sendall(self, data: bytes) -> None:
        assert data[0] == 4


class _Reader:
    """The association's reader in state 6, without its threads: bytes in, and every event that they cause."""

    def __init__(self) -> None:
        self._association = FastAssociation(AE(), "acceptor")
        self._association.settled.set()
        contexts = [build_context("1.2.840.10008.5.1.4.1.1.1"), build_context("1.2.840.10008.1.1")]
        for number, context in enumerate(contexts):
            context.context_id = 2 * number + 1
        self._contexts = {context.context_id: context for context in contexts if context.context_id is not None}
        self._dul: Any = self._association.dul

    def _reset(self) -> None:
        association, dul = self._association, self._dul
        association.dimse.message = None
        association.dimse.cancel_req.clear()
        association._accepted_cx = cast(Any, self._contexts)
        association._serve_request = lambda *_: None  # type: ignore[method-assign]  # its thread has no one to tell
        dul.state_machine.current_state = "Sta6"
        dul.open_reception = _open_sink
        dul._reception = dul._walk = dul._request = None
        dul._progress = dul._message_size = dul._at = dul._end = 0
        for waiting in (dul.event_queue, dul._recv_pdu, association.dimse.msg_queue):
            _drain(waiting)

    def feed(self, data: bytes) -> bool:
        """True when at least one message or PDU was understood."""
        self._reset()
        understood = False
        half = len(data) // 2
        for piece in (data[:half], data[half:]):
            rest = bytes(self._dul._buffer[self._dul._at : self._dul._end])
            self._dul._buffer = memoryview(bytearray(rest + piece))
            self._dul._at, self._dul._end = 0, len(rest) + len(piece)
            for _ in range(_MAX_EVENTS):
                if not self._dul._take(_Connection()):
                    understood = understood or self._dul._reception is not None
                    break
                understood = self._serve() or understood
                if self._dul.event_queue.queue and self._dul.event_queue.queue[0] == _UNREADABLE:
                    return understood
        return understood

    def _serve(self) -> bool:
        """What the state machine does with one event: P-DATA goes to DIMSE."""
        understood = False
        while not self._dul._recv_pdu.empty():
            pdu = self._dul._recv_pdu.get(False)
            self._dul.event_queue.get(False)
            primitive = pdu.to_primitive()
            if isinstance(pdu, PDataPdu):
                self._association.dimse.receive_primitive(primitive)
            understood = True
        return understood


def _open_sink(_association: Any, _request: StoreRequest, _syntax: str) -> Reception:
    return cast(Reception, _Sink())


def _drain(waiting: "queue.Queue[Any]") -> None:
    while not waiting.empty():
        waiting.get(False)


_reader: list[_Reader] = []


def pdu(data: bytes) -> bool:
    """What comes on an established association."""
    if not _reader:
        _reader.append(_Reader())
    return _reader[0].feed(data)


TARGETS: Mapping[str, Target] = {"pdu": pdu, "part10": part10, "stow": stow}
