"""C-STORE on pynetdicom at the speed of the disk; everything else stays pynetdicom's.

This file and accept.py alone override pynetdicom's internals, as of the version in `PYNETDICOM`;
tests/unit/listener/test_fast.py fails when they move. What changes:

- The two reactor threads of an association wait for the socket and for each other instead of looking each millisecond.
- Data sets of C-STORE requests go from one receive buffer to the file without being collected or decoded; the answer is
  made of bytes. Any other message or PDU is handed to the ordinary reader, whole.
- Accepting an association copies nothing and takes one thread less.
- A peer that sends too little for too long meets the timers, whatever it sends.
"""

import contextlib
import os
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import A_ASSOCIATE_AC

from hilum_listener.handlers.receive import Reception
from hilum_listener.transport.direct import BUFFER, FIRST_BUFFER, MIN_PROGRESS, Carried
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

PYNETDICOM = "3.0.4"
_MAX_ORDINARY_PDU = 1 << 20
_MAX_ORDINARY_MESSAGE = 1 << 24
_LONGEST_WAIT_S = 5.0
_STOP_S = 0.05
_CLOSED, _UNREADABLE = "Evt17", "Evt19"  # PS3.8 table 9-10

OpenReception = Callable[[Association, StoreRequest, str], Reception]


class FastAssociation(Association):
    """An accepted association. `quiet_since`: when its last request ended (monotonic), None while one is served."""

    def __init__(self, ae: Any, mode: str) -> None:
        self.news = threading.Event()
        self.settled = threading.Event()
        """Set when everyone has heard that the association is established."""
        self.quiet_since: float | None = time.monotonic()
        self.carried: Carried | None = None
        super().__init__(ae, mode)
        self.dul: FastDul = FastDul(self)
        self.acse_timeout = ae.acse_timeout
        self.network_timeout = ae.network_timeout
        self.dimse: _Dimse = _Dimse(self)
        self.dimse.msg_queue = _Announced(self.news)
        self._reactor_checkpoint: _Checkpoint = _Checkpoint(self)

    def _run_reactor(self) -> None:
        self.settled.set()
        super()._run_reactor()


class _Dimse(DIMSEServiceProvider):
    """Aborts the association for a message that can't be decoded; the original's exception ends the reader's thread."""

    def receive_primitive(self, primitive: Any) -> None:
        try:
            super().receive_primitive(primitive)
        except Exception:  # whatever a decoder makes of hostile bytes
            self.message = None
            self.dul.event_queue.put(_UNREADABLE)


class _Announced(queue.Queue[Any]):
    """A queue that also sets an event."""

    def __init__(self, news: threading.Event) -> None:
        super().__init__()
        self._news = news

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._news.set()


class _Checkpoint(threading.Event):
    """Where the association's reactor pauses in each round; here it also waits until there is something to look at."""

    def __init__(self, association: FastAssociation) -> None:
        super().__init__()
        self._association = association
        super().set()

    def set(self) -> None:
        super().set()
        self._association.news.set()

    def wait(self, timeout: float | None = None) -> bool:
        association = self._association
        if not association._kill:
            association.news.wait(max(0.0, min(_LONGEST_WAIT_S, association.dul._idle_timer.remaining)) + 0.001)
        association.news.clear()
        return super().wait(timeout)


class FastDul(DULServiceProvider):
    """Waits for the socket and for its own side; stores C-STORE data sets itself."""

    assoc: FastAssociation

    def __init__(self, association: FastAssociation) -> None:
        super().__init__(association)
        self.daemon = True
        self.open_reception: OpenReception | None = None
        self.to_user_queue = _Announced(association.news)
        self._run_loop_delay = 0.0
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._waker_lock = threading.Lock()
        self._poll = select.poll()
        self._poll.register(self._waker, select.POLLIN)
        self._polled = -1
        self._buffer = memoryview(bytearray(FIRST_BUFFER))
        self._at = self._end = 0
        self._progress = self._message_size = 0
        self._rest: bytes | None = None
        self._syntaxes: dict[int, str] = {}
        self._request: StoreRequest | None = None
        self._walk: DataSetWalk | None = None
        self._reception: Reception | None = None

    def carry_on(self, carried: Carried) -> None:
        """Begins with what came already; an acceptance that was sent is not sent again, and the rest waits for it."""
        self._make_room(len(carried.request))
        self._end = len(carried.request)
        self._buffer[: self._end] = carried.request
        self._rest = carried.rest

    def _send(self, pdu: Any) -> None:
        if self._rest is None or not isinstance(pdu, A_ASSOCIATE_AC):
            super()._send(pdu)

    def run_reactor(self) -> None:
        try:
            super().run_reactor()
        finally:
            if self._reception is not None:
                self._reception.abandon()
            self._buffer = memoryview(b"")
            with self._waker_lock:
                os.close(self._waker)
                self._waker = -1
            self.assoc.news.set()

    def wake(self) -> None:
        with self._waker_lock, contextlib.suppress(BlockingIOError):
            if self._waker >= 0:
                os.eventfd_write(self._waker, 1)

    def send_pdu(self, primitive: Any) -> None:
        super().send_pdu(primitive)
        self.wake()

    def kill_dul(self) -> None:
        super().kill_dul()
        self.wake()

    def stop_dul(self) -> bool:
        """Ends the thread when the connection is closed; else gives it a moment to get there."""
        if self.state_machine.current_state == "Sta1":
            self.kill_dul()
        if threading.current_thread() is not self:
            self.join(_STOP_S)
        return not self.is_alive()

    def _is_transport_event(self) -> bool:
        """Reads until there is an event for the state machine, or something else to look at.

        Returns True when enough came to restart the idle timer.
        """
        if not self.event_queue.empty():
            return False
        connection = self.socket.socket if self.socket is not None else None
        if connection is None:
            self._wait(None)
            return False
        state = self.state_machine.current_state
        if state == "Sta13":
            return self._linger(connection)
        if self._rest is not None and state == "Sta6":
            self._make_room(self._end + len(self._rest))
            self._buffer[self._end : self._end + len(self._rest)] = self._rest
            self._end, self._rest = self._end + len(self._rest), None
        elif self._rest is not None and self._at == self._end:
            self._wait(None)
            return False
        while True:
            if self._take(connection):
                return self._progressed()
            if not self._fill(connection) or self.to_provider_queue.queue or self._kill_thread:
                return self._progressed()

    def _progressed(self) -> bool:
        if self._progress < MIN_PROGRESS:
            return False
        self._progress = 0
        return True

    def _linger(self, connection: socket.socket) -> bool:
        """State 13: what still comes is dropped (PS3.8 9.2.2), then the connection is closed."""
        assert self.socket is not None
        self._at = self._end = 0
        if not self._fill(connection, wait=False):
            self.socket.close()
        return True

    def _take(self, connection: socket.socket) -> bool:
        """Works on what is in the buffer; True when there is an event for the state machine, False for more bytes."""
        while True:
            if self._reception is not None:
                walked = self._store(connection)
                if walked is Walked.MORE:
                    return False
                if walked is Walked.BROKEN:
                    self.event_queue.put(_UNREADABLE)
                    return True
                if walked is Walked.WHOLE:
                    continue
            elif self._end > self._at and (begun := self._begin(connection)) is not None:
                if begun:
                    continue
                return False
            return self._hand_over()

    def _begin(self, connection: socket.socket) -> bool | None:
        """True when a C-STORE request begins here, False when only more bytes can tell, None when it is for others."""
        association = self.assoc
        if (
            self._buffer[self._at] != P_DATA_TF
            or self.open_reception is None
            or self.state_machine.current_state != "Sta6"
            or association.dimse.message is not None
        ):
            return None
        found = store_request(self._buffer, self._at, self._end)
        if found is Look.MORE:
            return False
        if isinstance(found, Look):
            return None
        request, size = found
        syntax = self._syntax(request.context_id)
        if syntax is None or not association.settled.wait(association.acse_timeout):
            return None
        rest = pdu_header(self._buffer, self._at)[1] + PDU_HEADER - size
        if not request.has_data_set and rest:
            return None
        self._at += size
        association.quiet_since = None
        self._reception = self.open_reception(association, request, syntax)
        self._request = request
        self._walk = DataSetWalk(request.context_id, rest)
        if not request.has_data_set:
            self._answer(connection)
        return True

    def _syntax(self, context_id: int) -> str | None:
        """The transfer syntax of an accepted context."""
        known = self._syntaxes.get(context_id)
        if known is None and (context := self.assoc._accepted_cx.get(context_id)) is not None:
            known = self._syntaxes[context_id] = str(context.transfer_syntax[0])
        return known

    def _store(self, connection: socket.socket) -> Walked:
        assert self._walk is not None
        assert self._reception is not None
        why, self._at = self._walk.walk(self._buffer, self._at, self._end)
        if self._walk.pieces:
            self._reception.write(self._walk.pieces)
        if why is Walked.WHOLE:
            self._answer(connection)
        return why

    def _answer(self, connection: socket.socket) -> None:
        assert self._reception is not None
        assert self._request is not None
        status = self._reception.finish()
        self._reception = self._walk = None
        self._progress += MIN_PROGRESS
        try:
            connection.sendall(self._request.response(status))
        except OSError:
            self.event_queue.put(_CLOSED)
        self.assoc.quiet_since = time.monotonic()

    def _hand_over(self) -> bool:
        """Gives one whole PDU to pynetdicom; False when it isn't all there."""
        if self._end - self._at < PDU_HEADER:
            return False
        kind, length = pdu_header(self._buffer, self._at)
        if not 1 <= kind <= 7 or length > _MAX_ORDINARY_PDU:
            self.event_queue.put(_UNREADABLE)
            return True
        stop = self._at + PDU_HEADER + length
        if stop > self._end:
            self._make_room(PDU_HEADER + length)
            return False
        self._message_size = self._message_size + length if self.assoc.dimse.message is not None else length
        content = bytearray(self._buffer[self._at : stop])
        self._at = stop
        try:
            if self._message_size > _MAX_ORDINARY_MESSAGE:
                raise ValueError("the message is too long")
            pdu, event = self._decode_pdu(content)
            pdu.to_primitive()  # the state machine does it again, where what it raises would end this thread
        except Exception:  # whatever a decoder makes of hostile bytes
            self.event_queue.put(_UNREADABLE)
            return True
        self._recv_pdu.put(pdu)
        self.event_queue.put(event)
        self.assoc.quiet_since = time.monotonic()
        self._progress += MIN_PROGRESS if self.assoc.dimse.message is None else length
        return True

    def _make_room(self, size: int) -> None:
        """Lets the buffer hold so many bytes from `_at` on."""
        if size > len(self._buffer):
            grown = memoryview(bytearray(max(size, BUFFER)))
            grown[: self._end - self._at] = self._buffer[self._at : self._end]
            self._buffer, self._end, self._at = grown, self._end - self._at, 0

    def _fill(self, connection: socket.socket, *, wait: bool = True) -> bool:
        """Reads what has come, after waiting for it; False when there is something else to look at first.

        The kernel forgets TCP_QUICKACK, so it is set before each wait: a sender with Nagle's algorithm on holds a small
        piece back until the one before it is acknowledged.
        """
        if self._reception is not None:
            self._make_room(BUFFER)
        if self._at == self._end:
            self._at = self._end = 0
        elif self._at:
            rest = bytes(self._buffer[self._at : self._end])
            self._buffer[: len(rest)] = rest
            self._at, self._end = 0, len(rest)
        with contextlib.suppress(OSError):  # closed meanwhile: the read will say so
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        inside = self._reception is not None and not isinstance(connection, ssl.SSLSocket)
        try:
            if not inside and not self._wait(connection, wait=wait):
                return False
            size = connection.recv_into(self._buffer[self._end :])
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except (OSError, ValueError):
            size = 0
        if not size:
            self.event_queue.put(_CLOSED)
            return False
        self._end += size
        self._progress += size
        if self._progress >= MIN_PROGRESS and self._reception is not None:
            self._progress = 0
            self._idle_timer.restart()
        return True

    def _wait(self, connection: socket.socket | None, *, wait: bool = True) -> bool:
        """True when the connection can be read; False when something else is to do or the time is up."""
        if isinstance(connection, ssl.SSLSocket) and connection.pending():
            return True
        fd = connection.fileno() if connection is not None else -1
        if fd != self._polled:
            if self._polled >= 0:
                self._poll.unregister(self._polled)
            if fd >= 0:
                self._poll.register(fd, select.POLLIN)
            self._polled = fd
        timer = self.artim_timer
        running = timer.timeout is not None and timer._start_time is not None and timer._end_time is None
        limit_s = max(0.0, min(_LONGEST_WAIT_S, timer.remaining + 0.001)) if running else _LONGEST_WAIT_S
        ready = self._poll.poll(1000 * limit_s if wait else 0)
        if any(found == self._waker for found, _ in ready):
            os.eventfd_read(self._waker)
            return False
        return any(found == fd for found, _ in ready)
