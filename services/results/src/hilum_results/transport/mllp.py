"""HL7 v2 over MLLP (HL7 2.5.1 appendix C): one message a connection, and the answer that names it."""

import contextlib
import socket
import time

import hl7  # type: ignore[import-untyped]

from hilum.runtime.config import Hl7Destination
from hilum_results.encode.oru import addressed
from hilum_results.handlers.verdict import Verdict, of_acknowledgement, retry

START, END = b"\x0b", b"\x1c\x0d"
_LARGEST = 1 << 20


class MllpSender:
    """Sends and waits for the acknowledgement whose MSA-2 is the message's MSH-10."""

    def __init__(self, destination: Hl7Destination) -> None:
        self._destination = destination

    def send(self, content: bytes, identity: str) -> Verdict:
        peer = self._destination
        message = addressed(content, application=peer.application, facility=peer.facility)
        deadline = time.monotonic() + peer.timeout_s
        try:
            with socket.create_connection((peer.host, peer.port), timeout=peer.timeout_s) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.sendall(START + message + END)
                return _acknowledgement(connection, identity, deadline)
        except TimeoutError:
            return retry(f"no acknowledgement within {peer.timeout_s:g} s")
        except OSError as error:
            return retry(f"no connection ({type(error).__name__})")

    def rest(self) -> None:
        """Nothing stays open."""


def _acknowledgement(connection: socket.socket, identity: str, deadline: float) -> Verdict:
    """Reads answers until one names the message; others (late answers to earlier messages) are passed over."""
    buffer = b""
    while True:
        block, buffer = _next_block(buffer)
        if block is not None:
            verdict = _judge(block, identity)
            if verdict is not None:
                return verdict
            continue
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)
        received = connection.recv(65_536)
        if not received:
            return retry("the peer closed the connection without an acknowledgement")
        buffer += received
        if len(buffer) > _LARGEST:
            return retry("the peer's answer is too long to be an acknowledgement")


def _next_block(buffer: bytes) -> tuple[bytes | None, bytes]:
    """The first complete block's content and what follows it; None while there is none."""
    start = buffer.find(START)
    if start < 0:
        return None, b""
    end = buffer.find(END, start)
    if end < 0:
        return None, buffer[start:]
    return buffer[start + 1 : end], buffer[end + len(END) :]


def _judge(block: bytes, identity: str) -> Verdict | None:
    """The verdict of an acknowledgement, or None when it is for another message."""
    text = block.decode("utf-8", "replace").replace("\r\n", "\r").replace("\n", "\r").strip("\r")
    try:
        message = hl7.parse(text)
        msa = message.segment("MSA")
    except (hl7.HL7Exception, KeyError, IndexError, ValueError):
        return retry("the peer's answer is not an HL7 acknowledgement")
    if _field(msa, 2) != identity:
        return None
    words = [_field(msa, 3)]
    with contextlib.suppress(KeyError):
        error = message.segment("ERR")
        words += [_field(error, 8), _field(error, 7), _field(error, 3)]
    return of_acknowledgement(_field(msa, 1).upper(), "; ".join(filter(None, words)))


def _field(segment: hl7.Segment, number: int) -> str:
    return str(segment[number]) if len(segment) > number else ""
