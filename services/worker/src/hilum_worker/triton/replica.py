"""One model server: asked over one gRPC stream a request, and left alone for a while after it failed."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc  # type: ignore[import-untyped]
from tritonclient.grpc import service_pb2_grpc  # type: ignore[import-untyped]

from hilum.domain.errors import Busy, Reject
from hilum_medmo.serving.contract import Asked, ContractError, Said, Status
from hilum_worker.triton.wire import CHANNEL_OPTIONS, request_message, said_of

_LOOK_S = 0.1
_FIRST_REST_S = 0.5
_LONGEST_REST_S = 5.0


class Trouble(Exception):
    """This server gave no usable answer. `reason` names neither the prompt nor anything of the answer."""

    def __init__(self, reason: str, *, rests: bool = True) -> None:
        """`rests`: the server is better left alone for a while."""
        super().__init__(reason)
        self.reason = reason
        self.rests = rests


class Away(Trouble):
    """Its model was not asked: it isn't there, has no room, or has other weights. No attempt at this image."""


class Broke(Trouble):
    """It took the request, and then died, fell silent, was too slow, or answered nonsense: an attempt at this image."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds.

    Attributes:
        answer_s: from the request's arrival until its answer is wanted no more.
        silence_s: without a sign of life (the server gives one each half second) it counts as gone.
    """

    answer_s: float = 240.0
    silence_s: float = 10.0


class Replica:
    """A model server at `host:port`. Connects when it is first asked. One thread at a time asks it."""

    def __init__(self, address: str, patience: Patience, *, now: Callable[[], float] = time.monotonic) -> None:
        """`now`: monotonic seconds."""
        self.address = address
        self._patience = patience
        self._now = now
        self._channel = grpc.insecure_channel(address, options=list(CHANNEL_OPTIONS.items()))
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._failures = 0
        self._rests_until = 0.0
        self.trouble = ""
        """What was wrong with it when it was last asked; empty when nothing was."""

    @property
    def rests(self) -> bool:
        return self._now() < self._rests_until

    def ask(self, asked: Asked, *, should_stop: Callable[[], bool]) -> Said:
        """The message that ends the request, answered or described.

        Raises:
            Away, Broke: as they say; the server rests, longer each time in a row.
            Reject: the server says that this request can never succeed.
            Busy: `should_stop` returned True.
        """
        try:
            said = self._ask(asked, should_stop)
        except Trouble as error:
            self.trouble = error.reason
            if error.rests:
                self._rests_until = self._now() + min(_FIRST_REST_S * 2**self._failures, _LONGEST_REST_S)
                self._failures = min(self._failures + 1, 8)
            raise
        except Reject:
            self._works()
            raise
        self._works()
        return said

    def close(self) -> None:
        self._channel.close()

    def _works(self) -> None:
        self.trouble, self._failures, self._rests_until = "", 0, 0.0

    def _ask(self, asked: Asked, should_stop: Callable[[], bool]) -> Said:
        limit_s = asked.deadline_s + self._patience.silence_s  # the server ends it first, and says why
        call = self._stub.ModelStreamInfer(iter((request_message(asked),)), timeout=limit_s)
        arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(call, arrived), name="model-server", daemon=True).start()
        try:
            said = self._wait(arrived, asked, should_stop)
        except BaseException:
            # Never after an answer: the server ends the stream itself then, and Triton 2.51 keeps its model from being
            # unloaded for good when both do so at once.
            call.cancel()
            raise
        return _answered(said, asked)

    def _wait(self, arrived: queue.SimpleQueue[Any], asked: Asked, should_stop: Callable[[], bool]) -> Said:
        taken = False
        while True:
            said = _said(self._next(arrived, taken, should_stop), taken, asked)
            if said.status.ends:
                return said
            taken = True

    def _next(self, arrived: queue.SimpleQueue[Any], taken: bool, should_stop: Callable[[], bool]) -> Any:
        """The next message, an exception, or None at the stream's end."""
        silent_since = time.monotonic()
        while time.monotonic() - silent_since < self._patience.silence_s:
            if should_stop():
                raise Busy("the worker is stopping")
            try:
                return arrived.get(timeout=min(_LOOK_S, self._patience.silence_s))
            except queue.Empty:
                continue
        seconds = f"{self._patience.silence_s:g} s"
        raise Broke(f"gave no sign of life for {seconds}") if taken else Away(f"doesn't answer within {seconds}")


def _listen(call: Any, arrived: queue.SimpleQueue[Any]) -> None:
    """Passes on what comes, then the error that ended it, or None."""
    try:
        for message in call:
            arrived.put(message)
    except grpc.RpcError as error:
        arrived.put(error)
    else:
        arrived.put(None)


def _said(message: Any, taken: bool, asked: Asked) -> Said:
    trouble = Broke if taken else Away
    if message is None:
        raise trouble("ended the stream without an answer")
    if isinstance(message, grpc.RpcError):
        code = message.code()  # its details may quote what was sent
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise trouble(f"gave no answer within {asked.deadline_s:g} s")
        if code is grpc.StatusCode.UNAVAILABLE:
            raise trouble("broke the connection" if taken else "can't be reached")
        raise trouble(f"failed with gRPC's {code.name}")
    if message.error_message:
        raise trouble("has a server, but no model that works")
    try:
        return said_of(message.infer_response)
    except ContractError as error:
        raise Broke(f"answers outside the contract: {error}", rests=False) from error


def _answered(said: Said, asked: Asked) -> Said:
    reason = "".join(letter for letter in said.reason if letter.isprintable())[:200]
    match said.status:
        case Status.OTHER_MODEL:
            raise Away(f"has other weights ({said.model[2][:12]}) than the expected ones ({asked.digest[:12]})")
        case Status.OVERLOADED:
            raise Away(f"is overloaded: {reason}")
        case Status.REFUSED:
            raise Reject(f"the model can't be asked: {reason}")
        case Status.EXPIRED:
            raise Broke(f"gave no answer within {asked.deadline_s:g} s")
        case Status.FAILED:
            raise Broke(f"failed: {reason}", rests=False)
        case Status.ANSWERED | Status.DESCRIBED:
            if asked.digest and said.model[2] != asked.digest:
                raise Broke(f"answered with other weights ({said.model[2][:12]})")
            return said
        case _:
            raise Broke("gave the request up")
