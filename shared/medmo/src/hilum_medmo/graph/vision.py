"""Qwen3-VL's vision encoder as an ONNX graph: patches of one image in, features for the decoder out.

Inputs (N patches in merge-block order, D DeepStack layers, H the decoder's width):
    pixel_values     float32 (N, channels · temporal_patch · patch²)
    position_index   int64   (N, 4)        rows of the position table to mix …
    position_weight  float32 (N, 4)        … and how much of each
    cos, sin         float32 (N, head_dim) 2-D rotary embedding
Output:
    features         float32 (1 + D, N / merge², H): the image's embeddings, then one level per DeepStack layer

What depends on the grid alone is computed in numpy (`positions.patch_positions`), which keeps control flow out of the
graph. One image per run: attention is within an image. Source: transformers 5.24 `Qwen3VLVisionModel`; DeepStack is
arXiv 2406.04334.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hilum_medmo.config import VisionConfig
from hilum_medmo.graph.writer import GraphWriter
from hilum_medmo.weights import Weights

_PREFIX = "model.visual"
_EPS = 1e-6  # written into transformers' code, not into the config


def write_vision(config: VisionConfig, weights: Weights, folder: Path) -> Path:
    """Write `vision.onnx` and its data into `folder`.

    Raises:
        CheckpointError: the weights lack a tensor.
    """
    with GraphWriter("vision", folder) as graph:
        hidden = _embed(graph, config, weights)
        tables = [graph.input(name, np.float32, ["patches", config.head_dim]) for name in ("cos", "sin")]
        cos, sin = (graph.add("Unsqueeze", table, graph.integers(0)) for table in tables)
        levels: list[str] = []
        for layer in range(config.depth):
            hidden = _block(graph, config, weights, layer, hidden, cos, sin)
            if layer in config.deepstack_layers:
                merger = f"deepstack_merger_list.{config.deepstack_layers.index(layer)}"
                levels.append(_merge(graph, config, weights, merger, hidden, norm_after_shuffle=True))
        levels.insert(0, _merge(graph, config, weights, "merger", hidden, norm_after_shuffle=False))
        stacked = graph.add("Concat", *(graph.add("Unsqueeze", level, graph.integers(0)) for level in levels), axis=0)
        graph.output(stacked, "features", [len(levels), "tokens", config.out_hidden])
        return graph.save()


def _embed(graph: GraphWriter, config: VisionConfig, weights: Weights) -> str:
    pixels = graph.input("pixel_values", np.float32, ["patches", config.patch_values])
    index = graph.input("position_index", np.int64, ["patches", 4])
    weight = graph.input("position_weight", np.float32, ["patches", 4])
    # The 3-D convolution's stride is its kernel, so on flattened patches it is a matrix product.
    kernel = weights.read(f"{_PREFIX}.patch_embed.proj.weight").reshape(config.hidden, -1)
    patches = graph.linear(pixels, "patch_embed", kernel, weights.read(f"{_PREFIX}.patch_embed.proj.bias"))
    table = graph.weight("pos_embed", weights.read(f"{_PREFIX}.pos_embed.weight"))
    taps = graph.add("Mul", graph.add("Gather", table, index), graph.add("Unsqueeze", weight, graph.integers(2)))
    return graph.add("Add", patches, graph.add("ReduceSum", taps, graph.integers(1), keepdims=0))


def _linear(graph: GraphWriter, weights: Weights, name: str, value: str) -> str:
    source = f"{_PREFIX}.{name}"
    return graph.linear(value, name, weights.read(f"{source}.weight"), weights.read(f"{source}.bias"))


def _norm(graph: GraphWriter, weights: Weights, name: str, value: str) -> str:
    scale, shift = (graph.weight(f"{name}.{part}", weights.read(f"{_PREFIX}.{name}.{part}")) for part in _NORM_PARTS)
    return graph.add("LayerNormalization", value, scale, shift, axis=-1, epsilon=_EPS)


_NORM_PARTS = ("weight", "bias")


def _block(
    graph: GraphWriter, config: VisionConfig, weights: Weights, layer: int, hidden: str, cos: str, sin: str
) -> str:
    name = f"blocks.{layer}"
    attended = _attention(
        graph, config, weights, f"{name}.attn", _norm(graph, weights, f"{name}.norm1", hidden), cos, sin
    )
    hidden = graph.add("Add", hidden, attended)
    wide = _linear(graph, weights, f"{name}.mlp.linear_fc1", _norm(graph, weights, f"{name}.norm2", hidden))
    active = graph.add("Gelu", wide, approximate="tanh" if config.activation == "gelu_pytorch_tanh" else "none")
    return graph.add("Add", hidden, _linear(graph, weights, f"{name}.mlp.linear_fc2", active))


def _attention(
    graph: GraphWriter, config: VisionConfig, weights: Weights, name: str, value: str, cos: str, sin: str
) -> str:
    heads, size = config.heads, config.head_dim
    kernel, bias = (weights.read(f"{_PREFIX}.{name}.qkv.{part}").copy() for part in _NORM_PARTS)
    kernel[: config.hidden] *= size**-0.5  # the softmax's scale, paid once here; rotation keeps lengths
    bias[: config.hidden] *= size**-0.5
    qkv = graph.reshape(graph.linear(value, f"{name}.qkv", kernel, bias), -1, 3 * heads, size)
    rotary, values = graph.split(graph.add("Transpose", qkv, perm=[1, 0, 2]), [2 * heads, heads], axis=0)
    query, key = graph.split(rotate(graph, rotary, size, cos, sin), [heads, heads], axis=0)
    scores = graph.add("MatMul", query, graph.add("Transpose", key, perm=[0, 2, 1]))
    mixed = graph.add("MatMul", graph.add("Softmax", scores, axis=-1), values)
    return _linear(
        graph, weights, f"{name}.proj", graph.reshape(graph.add("Transpose", mixed, perm=[1, 0, 2]), -1, config.hidden)
    )


def rotate(graph: GraphWriter, value: str, size: int, cos: str, sin: str) -> str:
    """Rotary embedding of the last axis, `size` wide: value · cos + (-second half, first half) · sin."""
    first, second = graph.split(value, [size // 2, size // 2], axis=-1)
    turned = graph.add("Concat", graph.add("Neg", second), first, axis=-1)
    return graph.add("Add", graph.add("Mul", value, cos), graph.add("Mul", turned, sin))


def _merge(
    graph: GraphWriter, config: VisionConfig, weights: Weights, name: str, hidden: str, *, norm_after_shuffle: bool
) -> str:
    """merge² patches become one token. DeepStack's mergers normalise the block, the last one each patch."""
    width = config.hidden * config.merge**2
    if norm_after_shuffle:
        block = _norm(graph, weights, f"{name}.norm", graph.reshape(hidden, -1, width))
    else:
        block = graph.reshape(_norm(graph, weights, f"{name}.norm", hidden), -1, width)
    active = graph.add("Gelu", _linear(graph, weights, f"{name}.linear_fc1", block), approximate="none")
    return _linear(graph, weights, f"{name}.linear_fc2", active)
