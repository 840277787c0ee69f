"""The queue behind Triton's Python backend, which hands over requests and sends what it is given.

Nothing here imports Triton's module, which exists inside its own process only: it comes as an argument.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from hilum_medmo.model import MedMO
from hilum_medmo.serving.contract import ContractError, Said, Status
from hilum_medmo.serving.queue import Queue
from hilum_medmo.serving.tensors import decode_request, encode_said


class NamedTensor(Protocol):
    """`pb_utils.Tensor`."""

    def name(self) -> str: ...

    def as_numpy(self) -> NDArray[Any]: ...


class Sender(Protocol):
    """`pb_utils.InferenceResponseSender`."""

    def send(self, response: object = ..., flags: int = ...) -> None: ...

    def is_cancelled(self) -> bool: ...


class InferenceRequest(Protocol):
    """`pb_utils.InferenceRequest`."""

    def inputs(self) -> Sequence[NamedTensor]: ...

    def get_response_sender(self) -> Sender: ...


class Utils(Protocol):
    """The part of `triton_python_backend_utils` that is used (python_backend of Triton 2.51)."""

    TRITONSERVER_RESPONSE_COMPLETE_FINAL: int

    def Tensor(self, name: str, array: NDArray[Any], /) -> NamedTensor: ...

    def InferenceResponse(self, *, output_tensors: list[NamedTensor]) -> object: ...


class _Stream:
    def __init__(self, sender: Sender, utils: Utils) -> None:
        self._sender = sender
        self._utils = utils

    def send(self, said: Said) -> None:
        utils = self._utils
        tensors = [utils.Tensor(name, array) for name, array in encode_said(said).items()]
        flags = utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if said.status.ends else 0
        self._sender.send(utils.InferenceResponse(output_tensors=tensors), flags=flags)

    def is_cancelled(self) -> bool:
        return self._sender.is_cancelled()


class LifeLine:
    """Ends the server when this process, in which its model runs, ends without having been told to.

    Triton 2.51 goes on without the model, says that it is ready, and answers every request with an error. A server that
    has ended is seen by all, and started again by whatever started it.
    """

    _WATCH = 'read -r word; [ "$word" = end ] || [ "$(cat /proc/"$1"/comm)" != "$2" ] || kill -KILL "$1"'

    def __init__(self, server: int) -> None:
        """`server`: the process to end."""
        name = Path(f"/proc/{server}/comm").read_text().strip()  # the number may be another's by then
        command = ["/bin/sh", "-c", self._WATCH, "sh", str(server), name]
        self._watch = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def let_go(self) -> None:
        """From here on this process may end."""
        self._watch.communicate(b"end\n")


class Backend:
    """One instance of the model in Triton."""

    def __init__(self, medmo: MedMO, utils: Utils, *, engines: int = 1, most_waiting: int = 64) -> None:
        self._utils = utils
        self._queue = Queue(medmo, engines=engines, most_waiting=most_waiting)
        self._life_line = LifeLine(os.getppid())

    def execute(self, requests: Sequence[InferenceRequest]) -> None:
        """Takes them all; the answers come on their streams."""
        for request in requests:
            stream = _Stream(request.get_response_sender(), self._utils)
            try:
                asked = decode_request({tensor.name(): tensor.as_numpy() for tensor in request.inputs()})
            except ContractError as error:
                stream.send(Said(Status.REFUSED, f"not in the contract: {error}"))
            else:
                self._queue.submit(asked, stream)

    def finalize(self) -> None:
        self._life_line.let_go()
        self._queue.close()


def parameters(arguments: Mapping[str, str]) -> dict[str, str]:
    """The `parameters` of config.pbtxt, from what `initialize` is given."""
    declared = json.loads(arguments["model_config"]).get("parameters", {})
    return {str(name): str(value["string_value"]) for name, value in declared.items()}


def number(text: str) -> int | None:
    """A whole number, or None for an empty text."""
    with contextlib.suppress(ValueError):
        return int(text)
    return None
