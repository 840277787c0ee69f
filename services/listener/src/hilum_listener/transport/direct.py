"""An association that only stores, in one thread and without pynetdicom's objects.

From the A-ASSOCIATE-RQ on it does what nearly every sender asks for: a plain request (`transport.request`), C-STORE,
the release. Anything else goes to pynetdicom: a request that isn't plain or is to be rejected, before it is answered;
any other message later, and the association goes on there (`Carried`).
"""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from hilum_listener.handlers.receive import Reception
from hilum_listener.transport.pdata import (
    P_DATA_TF,
    PDU_HEADER,
    DataSetWalk,
    Look,
    StoreRequest,
    Walked,
    pdu_header,
    store_request,
)
from hilum_listener.transport.request import (
    A_ABORT,
    A_ASSOCIATE_RQ,
    A_RELEASE_RQ,
    ABORTED,
    ABORTED_BY_PROVIDER,
    RELEASED,
    Answer,
    answer,
)

FIRST_BUFFER, BUFFER = 1 << 14, 1 << 18
MIN_PROGRESS = 1 << 14
"""Bytes that restart the idle timer while a message is incomplete; less is a peer that only seems to be alive."""
_MAX_REQUEST = 1 << 20
_SHORT_PDU = 10
_LINGER_S = 2.0
_IDLE_THREAD_S = 60.0


@dataclass(frozen=True, slots=True)
class Carried:
    """What pynetdicom goes on with: the A-ASSOCIATE-RQ, and what came after it was answered (None when it wasn't)."""

    request: bytes
    rest: bytes | None
    direct: "Direct"


class Host(Protocol):
    """What an association needs of the SCP."""

    user: bytes
    acse_timeout_s: float
    idle_timeout_s: float

    def admit(self, direct: "Direct", accepted: Answer) -> bool:
        """Counts it in; False when it is to be rejected."""

    def established(self, direct: "Direct") -> None: ...

    def ended(self, direct: "Direct", change: str) -> None: ...

    def reception(self, direct: "Direct", request: StoreRequest, transfer_syntax_uid: str) -> Reception: ...


class Direct:
    """`address` is the peer's. `quiet_since`: when its last request ended (monotonic), None while one is served."""

    def __init__(
        self, connection: socket.socket, address: str, identity: str, host: Host, carry_on: Callable[[Carried], None]
    ) -> None:
        self._connection = connection
        self._host = host
        self._carry_on = carry_on
        self._buffer = memoryview(bytearray(FIRST_BUFFER))
        self._at = self._end = self._progress = 0
        self._idle_at = 0.0
        self._reception: Reception | None = None
        self._request: StoreRequest
        self._walk: DataSetWalk
        self._syntaxes: dict[int, str] = {}
        self._open = True
        self.address = address
        self.identity = identity
        self.calling_ae = ""
        self.quiet_since: float | None = None

    def is_alive(self) -> bool:
        return self._open

    def abort(self) -> None:
        """From another thread: tells the peer, and ends the wait for it."""
        with contextlib.suppress(OSError):
            self._connection.sendall(ABORTED)
            self._connection.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        try:
            self._serve()
        except Exception:  # whatever it is, this connection must not take the thread along
            self._close()
            raise

    def _serve(self) -> None:
        request = self._read_request()
        if request is None:
            self._close()
            return
        found = answer(request, self._host.user) if request[0] == A_ASSOCIATE_RQ else None
        if found is None or self._end > len(request) or not self._host.admit(self, found):
            self._carry(bytes(self._buffer[: self._end]), None)
            return
        self._syntaxes = dict(found.syntaxes)
        self._at = self._end = 0
        if not self._send(found.pdu):
            self._close()
            self._host.ended(self, "aborted")
            return
        self._host.established(self)
        self.quiet_since = time.monotonic()
        self._restart()
        change = "aborted"
        try:
            change = self._receive(request)
        except _Broken:
            self._send(ABORTED_BY_PROVIDER)
        except _Gone:
            pass
        finally:
            if self._reception is not None:
                self._reception.abandon()
            if change:
                self._finish(change)

    def _finish(self, change: str) -> None:
        if change == "released":
            self._open = False
            self._host.ended(self, change)
            if self._send(RELEASED):
                self._linger()
        self._close()
        if change != "released":
            self._host.ended(self, change)

    def _read_request(self) -> bytes | None:
        """The first PDU, or what there is when it is no request; None when it doesn't come in time."""
        deadline = time.monotonic() + self._host.acse_timeout_s
        while True:
            if self._end >= PDU_HEADER:
                kind, length = pdu_header(self._buffer, 0)
                size = PDU_HEADER + length
                if kind != A_ASSOCIATE_RQ or length > _MAX_REQUEST or self._end >= size:
                    return bytes(self._buffer[: min(self._end, size)])
                self._make_room(size)
            if self._read() == 0 or time.monotonic() > deadline:
                return None

    def _receive(self, request: bytes) -> str:
        """Returns how it ended; empty when pynetdicom goes on with it."""
        while True:
            while self._at < self._end:
                more = self._store_next()
                if more is None:
                    break
                if not more:
                    ending = self._other()
                    if ending is None:
                        break
                    if ending:
                        return ending
                    self._carry(request, bytes(self._buffer[self._at : self._end]))
                    return ""
            ending = self._fill()
            if ending:
                return ending

    def _store_next(self) -> bool | None:
        """True when a C-STORE request is done with, None when it needs more bytes, False when it is something else."""
        if self._reception is None:
            if self._buffer[self._at] != P_DATA_TF:
                return False
            found = store_request(self._buffer, self._at, self._end)
            if found is Look.MORE:
                return None
            if isinstance(found, Look):
                return False
            request, size = found
            syntax = self._syntaxes.get(request.context_id)
            rest = pdu_header(self._buffer, self._at)[1] + PDU_HEADER - size
            if syntax is None or (not request.has_data_set and rest):
                return False
            self._at += size
            self.quiet_since = None
            self._reception = self._host.reception(self, request, syntax)
            self._request, self._walk = request, DataSetWalk(request.context_id, rest)
            if not request.has_data_set:
                return self._reply()
        why, self._at = self._walk.walk(self._buffer, self._at, self._end)
        if self._walk.pieces:
            self._reception.write(self._walk.pieces)
        if why is Walked.MORE:
            return None
        if why is Walked.WHOLE:
            return self._reply()
        self._reception.abandon()
        self._reception = None
        if why is Walked.BROKEN:
            raise _Broken
        return False

    def _reply(self) -> bool:
        assert self._reception is not None
        status = self._reception.finish()
        self._reception = None
        if not self._send(self._request.response(status)):
            raise _Gone
        self.quiet_since = time.monotonic()
        self._restart()
        return True

    def _other(self) -> str | None:
        """How the association ends by the PDU that stands here; None when it isn't all there, empty when it doesn't."""
        came = self._end - self._at
        kind = self._buffer[self._at]
        if kind not in (A_RELEASE_RQ, A_ABORT):
            return ""
        if came >= PDU_HEADER and pdu_header(self._buffer, self._at)[1] != _SHORT_PDU - PDU_HEADER:
            return ""
        if came < _SHORT_PDU:
            return None
        return "released" if kind == A_RELEASE_RQ else "aborted"

    def _fill(self) -> str:
        """Reads what has come, after waiting for it; how the association ends when nothing comes any more."""
        if self._reception is not None:
            self._make_room(BUFFER)
        if self._at == self._end:
            self._at = self._end = 0
        elif self._at:
            rest = bytes(self._buffer[self._at : self._end])
            self._buffer[: len(rest)] = rest
            self._at, self._end = 0, len(rest)
        size = self._read()
        if size == 0:
            return "aborted"
        self._progress += max(size, 0)
        if self._reception is not None and self._progress >= MIN_PROGRESS:
            self._restart()
        elif time.monotonic() > self._idle_at:
            self._send(ABORTED)
            return "aborted"
        return ""

    def _restart(self) -> None:
        self._progress = 0
        self._idle_at = time.monotonic() + self._host.idle_timeout_s

    def _read(self) -> int:
        """How many bytes came; 0 when the peer is gone, -1 when none came for a while.

        The kernel forgets TCP_QUICKACK, so it is set before each wait: a sender with Nagle's algorithm on holds a small
        piece back until the one before it is acknowledged.
        """
        connection = self._connection
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            size = connection.recv_into(self._buffer[self._end :])
        except BlockingIOError:
            return -1
        except OSError:
            return 0
        self._end += size
        return size

    def _make_room(self, size: int) -> None:
        """Lets the buffer hold so many bytes from `_at` on."""
        if size > len(self._buffer):
            grown = memoryview(bytearray(max(size, BUFFER)))
            grown[: self._end - self._at] = self._buffer[self._at : self._end]
            self._buffer, self._end, self._at = grown, self._end - self._at, 0

    def _send(self, content: bytes) -> bool:
        try:
            self._connection.sendall(content)
        except OSError:
            return False
        return True

    def _linger(self) -> None:
        """The peer closes first, as the requestor of the release (PS3.8 9.2.2); what it still sends is dropped."""
        deadline = time.monotonic() + _LINGER_S
        while time.monotonic() < deadline:
            self._at = self._end = 0
            if self._read() == 0:
                return

    def _carry(self, request: bytes, rest: bytes | None) -> None:
        self._open = rest is not None
        self._carry_on(Carried(request, rest, self))

    def _close(self) -> None:
        self._open = False
        self._buffer = memoryview(b"")
        with contextlib.suppress(OSError):
            self._connection.close()


class _Broken(Exception):
    """A fragment that no clause allows here."""


class _Gone(Exception):
    """The peer takes no answer."""


class Threads:
    """Runs tasks at once, in threads that wait a minute for another one: to start a thread costs more than a task."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0

    def run(self, task: Callable[[], None]) -> None:
        with self._lock:
            if self._idle:
                self._idle -= 1
                self._tasks.put(task)
                return
        threading.Thread(target=self._work, args=(task,), name="association", daemon=True).start()

    def _work(self, task: Callable[[], None] | None) -> None:
        while task is not None:
            task()
            del task
            task = self._next()

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            self._idle += 1
        with contextlib.suppress(queue.Empty):
            return self._tasks.get(timeout=_IDLE_THREAD_S)
        with self._lock:
            with contextlib.suppress(queue.Empty):  # given to this one just now
                return self._tasks.get_nowait()
            self._idle -= 1
        return None
