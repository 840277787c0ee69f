"""The queue in front of an engine: the most urgent first, bounded, with signs of life, deadlines and cancellation.

`submit` returns at once. `engines` threads take requests one after the other and let the engine answer; another thread
tells every open request each `beat_s` how it stands, and finds those that nobody waits for any more.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from dataclasses import dataclass, field
from typing import Protocol

from hilum_medmo.errors import RequestError
from hilum_medmo.model import MedMO
from hilum_medmo.serving.contract import Asked, Said, Status, Task, answered, model_of


class Stream(Protocol):
    """Where the messages of one request go."""

    def send(self, said: Said) -> None:
        """Nothing is sent after a message that ends the request."""
        ...

    def is_cancelled(self) -> bool:
        """True once nobody listens any more."""
        ...


@dataclass(slots=True, eq=False)
class _Ticket:
    asked: Asked
    stream: Stream
    arrived: float
    status: Status = Status.WAITING
    cancelled: bool = False
    ended: bool = False
    sending: threading.Lock = field(default_factory=threading.Lock)

    def expired(self) -> bool:
        return time.monotonic() - self.arrived >= self.asked.deadline_s

    def send(self, said: Said) -> None:
        with self.sending:
            if not self.ended:
                self.ended = said.status.ends
                self.stream.send(said)

    def listen(self) -> None:
        """Finds out whether anybody still waits.

        Never while the last message goes out, nor after it: Triton frees then what it is asked about, and the whole
        server dies (2.51, ResponseFactoryIsCancelled).
        """
        with self.sending:
            if not self.ended and self.stream.is_cancelled():
                self.cancelled = True


class Queue:
    """Requests for one model. Threads start with it and end with `close`."""

    def __init__(self, medmo: MedMO, *, engines: int = 1, most_waiting: int = 64, beat_s: float = 0.5) -> None:
        """`engines`: how many requests are answered at once; one more than `most_waiting` is turned away."""
        self._medmo = medmo
        self._most_waiting = most_waiting
        self._beat_s = beat_s
        self._numbers = itertools.count()
        self._waiting: list[tuple[int, int, _Ticket]] = []
        self._open: set[_Ticket] = set()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._beat, name="signs-of-life", daemon=True)]
        self._threads += [
            threading.Thread(target=self._answer, name=f"engine-{n}", daemon=True) for n in range(engines)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, asked: Asked, stream: Stream) -> None:
        """Takes a request, or turns it away with the message that says why."""
        identity = self._medmo.identity
        ticket = _Ticket(asked, stream, time.monotonic())
        if asked.task is Task.DESCRIBE:
            ticket.send(Said(Status.DESCRIBED, model=model_of(identity), description=identity))
        elif asked.digest not in ("", identity.digest):
            ticket.send(Said(Status.OTHER_MODEL, "these are other weights", model_of(identity)))
        elif not self._take(ticket):
            ticket.send(Said(Status.OVERLOADED, "too many requests wait", model_of(identity)))

    def close(self) -> None:
        """Cancels what runs, turns away what waits, and ends the threads."""
        self._closing.set()
        with self._changed:
            for ticket in self._open:
                ticket.cancelled = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        for ticket in self._open:
            ticket.send(Said(Status.OVERLOADED, "the server is ending"))

    def _take(self, ticket: _Ticket) -> bool:
        with self._changed:
            if len(self._waiting) >= self._most_waiting or self._closing.is_set():
                return False
            ticket.send(Said(Status.WAITING))
            self._open.add(ticket)
            heapq.heappush(self._waiting, (ticket.asked.priority.rank, next(self._numbers), ticket))
            self._changed.notify()
        return True

    def _answer(self) -> None:
        while self._answer_one():
            pass

    def _answer_one(self) -> bool:
        """False when the queue closes. Keeps nothing of a request that has ended: Triton waits for what is held."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
            if self._closing.is_set():
                return False
            _, _, ticket = heapq.heappop(self._waiting)
        if not ticket.ended:
            ticket.status = Status.RUNNING
            ticket.send(self._generate(ticket))
        with self._changed:
            self._open.discard(ticket)
        return True

    def _generate(self, ticket: _Ticket) -> Said:
        identity = self._medmo.identity
        queue_s = time.monotonic() - ticket.arrived
        try:
            generation = self._medmo.generate(
                ticket.asked.request, should_stop=lambda: ticket.cancelled or ticket.expired()
            )
        except RequestError as error:
            return Said(Status.REFUSED, str(error), model_of(identity))
        except Exception as error:  # the next request has another image; this one's sender hears what kind of error
            return Said(Status.FAILED, f"a fault in the model ({type(error).__name__})", model_of(identity))
        if generation.finish != "cancelled":
            return answered(ticket.asked.task, generation, identity, queue_s=queue_s)
        if ticket.cancelled:
            return Said(Status.CANCELLED, model=model_of(identity))
        return Said(Status.EXPIRED, "the deadline came while the model was at it", model_of(identity))

    def _beat(self) -> None:
        while not self._closing.wait(self._beat_s):
            self._look_at_all()

    def _look_at_all(self) -> None:
        with self._changed:
            tickets = list(self._open)
        for ticket in tickets:
            self._look_at(ticket)

    def _look_at(self, ticket: _Ticket) -> None:
        ticket.listen()
        if ticket.status is Status.RUNNING:
            ticket.send(Said(Status.RUNNING))  # the engine ends it, at its next token
        elif ticket.cancelled:
            self._drop(ticket, Said(Status.CANCELLED))
        elif ticket.expired():
            self._drop(ticket, Said(Status.OVERLOADED, "the deadline came before its turn"))
        else:
            ticket.send(Said(Status.WAITING))

    def _drop(self, ticket: _Ticket, said: Said) -> None:
        """Ends a request that waits; an engine may have taken it a moment ago, and then its answer is for nobody."""
        ticket.send(said)
        with self._changed:
            if any(each is ticket for _, _, each in self._waiting):
                self._waiting = [entry for entry in self._waiting if entry[2] is not ticket]
                heapq.heapify(self._waiting)
                self._open.discard(ticket)
