"""Writes an ONNX model whose weights stream to one external file, so a graph may be larger than memory or 2 GB.

Graphs use plain ONNX operators only (opset 20): ONNX Runtime fuses them when it loads a graph, and other compilers
can parse them. A tensor is read, written and dropped before the next one, so the peak is one tensor, not the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 20  # the first with Gelu; TensorRT 10 parses it
_IR_VERSION = 10
_ALIGN = 4096  # external data is memory-mapped by page
_INLINE_VALUES = 64  # smaller constants stay in the graph, where shape inference can see them
_TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}

Dims: TypeAlias = Sequence[int | str]


class GraphWriter:
    """Collects nodes; methods return the name of the value they add. A context manager that closes the data file."""

    def __init__(self, name: str, folder: Path) -> None:
        """Start a graph that will be `folder/name.onnx` with its weights in `folder/name.onnx.data`."""
        self._name = name
        self._folder = folder
        self._data_name = f"{name}.onnx.data"
        self._data: BinaryIO = (folder / self._data_name).open("wb")
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._renamed: dict[str, str] = {}
        self._count = 0

    def __enter__(self) -> GraphWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._data.close()

    def input(self, name: str, dtype: type[np.float32] | type[np.int64], dims: Dims) -> str:
        """Declare a graph input; strings in `dims` are free sizes."""
        self._inputs.append(helper.make_tensor_value_info(name, _TYPES[np.dtype(dtype)], list(dims)))
        return name

    def output(self, value: str, name: str, dims: Dims) -> None:
        """Make a float32 value a graph output of this name. Renamed, because an Identity node would copy a KV cache."""
        self._renamed[value] = name
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims)))

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output."""
        return self.add_many(operator, 1, *inputs, **attributes)[0]

    def add_many(self, operator: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node with several outputs."""
        self._count += 1
        names = [f"{operator.lower()}_{self._count}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        self._nodes.append(helper.make_node(operator, list(inputs), names, name=names[0], **attributes))
        return names

    def weight(self, name: str, values: NDArray[np.float32]) -> str:
        """A weight under its own name."""
        if name in self._initializers:
            raise ValueError(f"the graph already has a weight {name!r}")
        self._initializers[name] = self._tensor(name, np.ascontiguousarray(values, np.float32))
        return name

    def integers(self, *values: int) -> str:
        """A 1-D int64 constant, shared among all that ask for the same."""
        return self._constant(np.array(values, np.int64))

    def number(self, value: float) -> str:
        """A float32 scalar constant, shared likewise."""
        return self._constant(np.array(value, np.float32))

    def reshape(self, value: str, *dims: int) -> str:
        """Reshape; 0 keeps a size, -1 takes what is left."""
        return self.add("Reshape", value, self.integers(*dims))

    def split(self, value: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Cut along an axis."""
        return self.add_many("Split", len(sizes), value, self.integers(*sizes), axis=axis)

    def linear(self, value: str, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32] | None) -> str:
        """value · weightᵀ + bias, with `weight` (out, in) as torch stores it."""
        product = self.add("MatMul", value, self.weight(f"{name}.weight", weight.T))
        return product if bias is None else self.add("Add", product, self.weight(f"{name}.bias", bias))

    def save(self) -> Path:
        """Write the graph, check it, and return its path."""
        self._data.flush()
        for node in self._nodes:
            for names in (node.input, node.output):
                names[:] = [self._renamed.get(name, name) for name in names]
        graph = helper.make_graph(
            self._nodes, self._name, self._inputs, self._outputs, list(self._initializers.values())
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION, producer_name="hilum-medmo"
        )
        path = self._folder / f"{self._name}.onnx"
        path.write_bytes(model.SerializeToString())
        onnx.checker.check_model(str(path))
        return path

    def _constant(self, values: NDArray[Any]) -> str:
        name = f"constant_{values.dtype}_{values.ndim}_" + "_".join(map(str, values.ravel().tolist()))
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(values, name)
        return name

    def _tensor(self, name: str, values: NDArray[np.float32]) -> onnx.TensorProto:
        if values.size <= _INLINE_VALUES:
            return numpy_helper.from_array(values, name)
        offset = -(-self._data.tell() // _ALIGN) * _ALIGN
        self._data.seek(offset)
        self._data.write(values.astype("<f4", copy=False).data)
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=values.shape)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": self._data_name, "offset": offset, "length": values.nbytes}
        tensor.external_data.extend(
            onnx.StringStringEntryProto(key=key, value=str(value)) for key, value in place.items()
        )
        return tensor
