"""The contract's tensors in KServe's gRPC messages (inference protocol v2), as tritonclient generates them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2  # type: ignore[import-untyped]

from hilum_medmo.serving.contract import MODEL, Asked, ContractError, Said
from hilum_medmo.serving.tensors import DTYPES, INPUTS, decode_said, encode_request

_MOST_ELEMENTS = 1_000_000
"""More than any answer has; checked before anything of that size is made."""


def request_message(asked: Asked) -> Any:
    """The `ModelInferRequest`."""
    message = service_pb2.ModelInferRequest(model_name=MODEL)
    for name, array in encode_request(asked).items():
        kind = INPUTS[name][0]
        message.inputs.add(name=name, datatype=kind, shape=array.shape)
        message.raw_input_contents.append(packed(array) if kind == "BYTES" else array.tobytes())
    return message


def said_of(response: Any) -> Said:
    """What a `ModelInferResponse` says.

    Raises:
        ContractError: it isn't in the contract.
    """
    return decode_said(dict(_tensors(response)))


def _tensors(response: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    if len(response.outputs) != len(response.raw_output_contents):
        raise ContractError("not every tensor has its content")
    for output, content in zip(response.outputs, response.raw_output_contents, strict=True):
        yield str(output.name), array_of(str(output.name), str(output.datatype), tuple(output.shape), content)


def array_of(name: str, kind: str, shape: tuple[int, ...], content: bytes) -> NDArray[Any]:
    """A tensor from its bytes.

    Raises:
        ContractError: its type is none of the contract's, or the bytes are not as many as the shape says.
    """
    if kind not in DTYPES or any(size < 0 for size in shape):
        raise ContractError(f"{name} has an unknown type or shape")
    count = 1
    for size in shape:
        count *= size
    if count > _MOST_ELEMENTS:
        raise ContractError(f"{name} is too large")
    if kind == "BYTES":
        return _unpacked(name, content, count).reshape(shape)
    dtype = np.dtype(DTYPES[kind]).newbyteorder("<")
    if len(content) != count * dtype.itemsize:
        raise ContractError(f"{name} is not as long as its shape says")
    return np.frombuffer(content, dtype).astype(DTYPES[kind]).reshape(shape)


def packed(texts: NDArray[Any]) -> bytes:
    """Each with its length before it, 4 bytes, little-endian."""
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts.reshape(-1))


def _unpacked(name: str, content: bytes, count: int) -> NDArray[Any]:
    array, at = np.empty(count, np.object_), 0
    for index in range(count):
        end = at + 4 + int.from_bytes(content[at : at + 4], "little")
        if at + 4 > len(content) or end > len(content):
            raise ContractError(f"{name} is not as long as its shape says")
        array[index] = content[at + 4 : end]
        at = end
    if at != len(content):
        raise ContractError(f"{name} is longer than its shape says")
    return array


CHANNEL_OPTIONS: Mapping[str, int] = {
    # A server that is back is found again at once; gRPC would wait up to two minutes.
    "grpc.initial_reconnect_backoff_ms": 200,
    "grpc.min_reconnect_backoff_ms": 1000,
    "grpc.max_reconnect_backoff_ms": 1000,
    "grpc.max_receive_message_length": 16_000_000,
    "grpc.enable_retries": 0,  # who is asked again, and when, is decided here
}
