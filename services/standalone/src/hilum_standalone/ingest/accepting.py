"""How long an association request with many presentation contexts waits for its answer."""

import socket
import struct
from time import monotonic

_CONTEXTS = 128


def accept_ms(port: int, syntaxes: int) -> float:
    """Milliseconds from the A-ASSOCIATE-RQ to the whole A-ASSOCIATE-AC, connect not counted.

    Of the first request with these contexts, which the receiver can't know from one before; another kind of request
    has warmed it up.
    """
    _ask(port, _request(2))
    return _ask(port, _request(syntaxes))


def _ask(port: int, request: bytes) -> float:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection, connection.makefile("rb") as answer:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begin = monotonic()
        connection.sendall(request)
        head = answer.read(6)
        answer.read(int.from_bytes(head[2:], "big"))
        took = monotonic() - begin
        if head[0] != 2:
            raise RuntimeError("the association was not accepted")
        connection.sendall(b"\5\0\0\0\0\4\0\0\0\0")
        answer.read(10)
    return 1000 * took


def _request(syntaxes: int) -> bytes:
    proposed = b"".join(_item(0x40, f"1.2.840.10008.1.2.4.{50 + n}".encode()) for n in range(syntaxes - 1))
    proposed = _item(0x40, b"1.2.840.10008.1.2.1") + proposed
    contexts = b"".join(
        _item(0x20, bytes((2 * n + 1, 0, 0, 0)) + _item(0x30, f"1.2.840.10008.5.1.4.1.1.{n + 1}".encode()) + proposed)
        for n in range(_CONTEXTS)
    )
    user = _item(0x50, _item(0x51, struct.pack(">I", 16384)) + _item(0x52, b"1.2.3"))
    body = b"\0\1\0\0" + b"HILUM".ljust(16) + b"BENCH".ljust(16) + bytes(32)
    body += _item(0x10, b"1.2.840.10008.3.1.1.1") + contexts + user
    return struct.pack(">BxI", 1, len(body)) + body


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content
