"""Sending DIMSE requests with pynetdicom without losing the response.

pynetdicom 3.0.4 pauses an association's reactor thread before it sends a request, so that the thread doesn't take the
response from the queue. It looks at a flag that the thread sets before it looks at the pause; a thread that is
descheduled between the two goes on for one round, takes the response, logs "Received unexpected C-STORE service
message", and the request waits for its DIMSE timeout. On a busy machine that is one request in some hundreds.
"""

import math
import threading
import time
from typing import Any


class Gate:
    """Stands in for the association's `threading.Event`, and knows whether the reactor thread really waits at it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = True
        self.holds = False

    def set(self) -> None:
        with self._changed:
            self._open = True
            self.holds = False
            self._changed.notify_all()

    def clear(self) -> None:
        with self._changed:
            self._open = False

    def wait(self) -> None:
        with self._changed:
            while not self._open:
                self.holds = True
                self._changed.wait()


def hold_reactor(association: Any, *, timeout_s: float = math.inf) -> bool:
    """Called before each `send_c_…`: returns when the reactor thread waits, or has ended.

    The `send_c_…` method lets the thread go on when it has the response. False, with the thread left to go on, when it
    doesn't come to wait within the timeout.
    """
    deadline = time.monotonic() + timeout_s
    gate = association._reactor_checkpoint
    if not isinstance(gate, Gate):
        gate = association._reactor_checkpoint = Gate()
    gate.clear()
    while association.is_alive() and not gate.holds:
        if time.monotonic() > deadline:
            gate.set()
            return False
        time.sleep(0.0001)
    return True
