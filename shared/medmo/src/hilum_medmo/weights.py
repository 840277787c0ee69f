"""Reads safetensors without torch: memory-mapped, bf16 and fp16 widened to fp32 one tensor at a time.

Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, then the data
(safetensors format, version 0.4). A sharded checkpoint has `model.safetensors.index.json` with its weight_map.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilum_medmo.config import read_json
from hilum_medmo.errors import CheckpointError

_MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
_ITEM_BYTES = {"BF16": 2, "F16": 2, "F32": 4}


@dataclass(frozen=True, slots=True)
class _Entry:
    shard: int
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def weight_files(checkpoint: Path) -> list[Path]:
    """The safetensors files of a checkpoint, sorted by name.

    Raises:
        CheckpointError: there are none, or one that the index names is missing.
    """
    index = checkpoint / "model.safetensors.index.json"
    if index.exists():
        names = sorted({str(name) for name in read_json(index).get("weight_map", {}).values()})
        if any(Path(name).name != name for name in names):
            raise CheckpointError(f"{index} names a file outside its folder")
        files = [checkpoint / name for name in names]
    else:
        files = [checkpoint / "model.safetensors"]
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        raise CheckpointError(f"weights are missing: {', '.join(missing) or index}")
    return files


class Weights:
    """The tensors of a checkpoint by name. A context manager; arrays it returned stay valid after it."""

    def __init__(self, checkpoint: Path) -> None:
        """Map the files and read their headers.

        Raises:
            CheckpointError: a file is missing or no valid safetensors.
        """
        self._maps: list[mmap.mmap] = []
        self._entries: dict[str, _Entry] = {}
        for shard, path in enumerate(weight_files(checkpoint)):
            with path.open("rb") as file:
                try:
                    view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                except ValueError as error:
                    raise CheckpointError(f"{path} is empty") from error
            self._maps.append(view)
            try:
                self._entries.update(_header(view, shard))
            except (ValueError, KeyError, TypeError, struct.error) as error:
                raise CheckpointError(f"{path} is no valid safetensors file: {error}") from error

    def __enter__(self) -> Weights:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for view in self._maps:
            view.close()

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; CheckpointError if there is none of that name."""
        return self._entry(name).shape

    def read(self, name: str) -> NDArray[np.float32]:
        """A tensor as fp32, its own copy; CheckpointError if there is none of that name."""
        entry = self._entry(name)
        view, count = self._maps[entry.shard], math.prod(entry.shape)
        values: NDArray[np.float32]
        match entry.dtype:
            case "BF16":  # the upper half of an fp32
                bits = np.frombuffer(view, "<u2", count, entry.start).astype("<u4")
                values = np.left_shift(bits, 16, out=bits).view("<f4")
            case "F16":
                values = np.frombuffer(view, "<f2", count, entry.start).astype("<f4")
            case _:
                values = np.frombuffer(view, "<f4", count, entry.start).copy()
        return values.reshape(entry.shape)

    def _entry(self, name: str) -> _Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise CheckpointError(f"the weights lack the tensor {name!r}") from None


def _header(view: mmap.mmap, shard: int) -> dict[str, _Entry]:
    (length,) = struct.unpack("<Q", view[:8])
    if length > min(_MAX_HEADER_BYTES, len(view) - 8):
        raise ValueError("its header is longer than the file")
    header: dict[str, dict[str, Any]] = json.loads(view[8 : 8 + length])
    entries: dict[str, _Entry] = {}
    for name, value in header.items():
        if name == "__metadata__":
            continue
        dtype, shape = str(value["dtype"]), tuple(int(n) for n in value["shape"])
        start, end = (8 + length + int(n) for n in value["data_offsets"])
        if dtype not in _ITEM_BYTES:
            raise ValueError(f"tensor {name!r} has the type {dtype}, which is not supported")
        if not 8 + length <= start <= end <= len(view) or end - start != math.prod(shape) * _ITEM_BYTES[dtype]:
            raise ValueError(f"tensor {name!r} does not fit its place in the file")
        entries[name] = _Entry(shard, dtype, shape, start, end)
    return entries
