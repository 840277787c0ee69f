"""For tests: PDUs as no toolkit would send them, byte by byte, and what the listener answers."""

import contextlib
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from hilum.testing.hostile_files import CR, EXPLICIT, data_set

ASSOCIATE_AC, ASSOCIATE_RJ, DATA, RELEASE_RQ, RELEASE_RP, ABORT = 2, 3, 4, 5, 6, 7
COMMAND, COMMAND_LAST, DATA_SET, DATA_SET_LAST = 1, 3, 0, 2
VERIFICATION = "1.2.840.10008.1.1"


def pdu(kind: int, body: bytes, *, length: int | None = None) -> bytes:
    return struct.pack(">BxI", kind, len(body) if length is None else length) + body


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


def associate_rq(contexts: Sequence[tuple[int, str, str]], *, more: bytes = b"") -> bytes:
    """A-ASSOCIATE-RQ (PS3.8 9.3.2) with context ids, abstract and transfer syntaxes; `more`: further items."""
    items = _item(0x10, b"1.2.840.10008.3.1.1.1")
    for number, abstract, transfer in contexts:
        items += _item(0x20, bytes([number, 0, 0, 0]) + _item(0x30, abstract.encode()) + _item(0x40, transfer.encode()))
    items += _item(0x50, _item(0x51, struct.pack(">I", 16384)) + _item(0x52, b"1.2.3.4")) + more
    return pdu(1, struct.pack(">HH16s16s32x", 1, 0, b"HILUM".ljust(16), b"HOSTILE".ljust(16)) + items)


def value(control: int, content: bytes, *, context: int = 1, length: int | None = None) -> bytes:
    """A presentation data value (PS3.8 9.3.5.1); `length` may lie."""
    return struct.pack(">IBB", len(content) + 2 if length is None else length, context, control) + content


def store_rq(instance: str, *, data_set_follows: bool = True) -> bytes:
    """The command set of a C-STORE-RQ (PS3.7 9.3.1.1)."""
    fields = (
        (0x0002, CR.encode() + b"\0" * (len(CR) % 2)),
        (0x0100, struct.pack("<H", 1)),
        (0x0110, struct.pack("<H", 7)),
        (0x0700, struct.pack("<H", 0)),
        (0x0800, struct.pack("<H", 1 if data_set_follows else 0x0101)),
        (0x1000, instance.encode() + b"\0" * (len(instance) % 2)),
    )
    body = b"".join(struct.pack("<HHI", 0, number, len(content)) + content for number, content in fields)
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


class Line:
    """A connection to the listener that can say anything."""

    proposes_verification = True
    """Then the association is pynetdicom's from the start, else direct.py has it."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)

    def send(self, data: bytes) -> Self:
        """Sends what the other side takes; a connection that it has closed meanwhile is no error."""
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(data)
        return self

    def associate(self) -> Self:
        verification = [(3, VERIFICATION, EXPLICIT)] if self.proposes_verification else []
        self.send(associate_rq([(1, CR, EXPLICIT), *verification]))
        assert self.receive() == ASSOCIATE_AC
        return self

    def receive(self) -> int:
        """The type of the next PDU, which is read whole; 0 when the connection is closed."""
        found = self.whole()
        return found[0] if found else 0

    def whole(self) -> bytes:
        """The next PDU; empty when the connection is closed."""
        head = self._exactly(6)
        return head + self._exactly(struct.unpack(">BxI", head)[1]) if len(head) == 6 else b""

    def end(self, *, within_s: float = 8.0) -> int:
        """Reads until the listener aborts or closes; the last PDU's type, 0 when there was none.

        After its abort it waits for the peer to close, as it should (PS3.8 9.2.3, AA-8).
        """
        self._socket.settimeout(within_s)
        begun, last = time.monotonic(), 0
        while kind := self.receive():
            last = kind
            if kind == ABORT:
                break
            assert time.monotonic() - begun < within_s, "the connection stays open"
        return last

    def _exactly(self, size: int) -> bytes:
        found = b""
        with contextlib.suppress(ConnectionError):
            while len(found) < size and (more := self._socket.recv(size - len(found))):
                found += more
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


def stored(port: int, name: str) -> int:
    """Sends a small image the ordinary way, in two fragments; the type of the answer's PDU."""
    data = data_set(name)
    with Line(port).associate() as line:
        line.send(pdu(DATA, value(COMMAND_LAST, store_rq(f"1.2.3.{name}"))))
        line.send(pdu(DATA, value(DATA_SET, data[:100]) + value(DATA_SET_LAST, data[100:])))
        answer = line.receive()
        line.send(pdu(RELEASE_RQ, bytes(4)))
        assert line.end() == RELEASE_RP
        return answer


def without_end(piece: bytes, *, times: int) -> Iterator[bytes]:
    """The same piece again and again."""
    for _ in range(times):
        yield piece
