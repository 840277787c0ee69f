"""For tests: a model server of a few lines in this process, which says what a test tells it to.

Its gRPC is real; what is scripted is what no healthy Triton says. `hilum.testing.model_server` starts the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import grpc  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc  # type: ignore[import-untyped]

from hilum_medmo.serving.contract import Asked, Said
from hilum_medmo.serving.tensors import DTYPES, INPUTS, OUTPUTS, decode_request, encode_said
from hilum_worker.triton.wire import array_of, packed

Line: TypeAlias = Said | dict[str, NDArray[Any]] | str
"""A message; tensors, which may be nonsense; or the text of an error of Triton's own."""


class ScriptedServer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers each request with the lines that `script` gives for it, and keeps the requests. A context manager."""

    def __init__(self, script: Callable[[Asked], Iterator[Line]]) -> None:
        self._script = script
        self.asked: list[Asked] = []
        self._server = grpc.server(ThreadPoolExecutor(4))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> ScriptedServer:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()

    def ModelStreamInfer(self, requests: Iterator[Any], _context: Any) -> Iterator[Any]:
        """The stream of one request."""
        for request in requests:
            asked = decode_request(
                {
                    tensor.name: array_of(tensor.name, INPUTS[tensor.name][0], tuple(tensor.shape), content)
                    for tensor, content in zip(request.inputs, request.raw_input_contents, strict=True)
                }
            )
            self.asked.append(asked)
            for line in self._script(asked):
                yield _message(line)


def _message(line: Line) -> Any:
    if isinstance(line, str):
        return service_pb2.ModelStreamInferResponse(error_message=line)
    response = service_pb2.ModelInferResponse(model_name="medmo")
    for name, array in (encode_said(line) if isinstance(line, Said) else line).items():
        kind = OUTPUTS[name][0] if array.dtype == DTYPES[OUTPUTS[name][0]] else _kind(array.dtype)
        response.outputs.add(name=name, datatype=kind, shape=array.shape)
        response.raw_output_contents.append(packed(array) if kind == "BYTES" else array.tobytes())
    return service_pb2.ModelStreamInferResponse(infer_response=response)


def _kind(dtype: Any) -> str:
    return next((name for name, known in DTYPES.items() if np.dtype(known) == dtype), "FP32")
