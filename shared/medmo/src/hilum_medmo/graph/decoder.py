"""Qwen3-VL's decoder as an ONNX graph with a KV cache, M-RoPE and DeepStack.

Inputs (B sequences, S new tokens, P cached ones, L image tokens of the whole batch, D DeepStack layers, K kept):
    input_ids       int64   (B, S)
    position_ids    int64   (3, B, S)     time, height, width
    attention_bias  float32 (B, 1, S, P + S), added to the scores: 0 to look, very negative not to
    image_index     int64   (B, S)        0: a text token; n: the n-th row of image_features
    image_features  float32 (1 + D, 1 + L, H): row 0 is zeros, then the vision encoder's features
    keep            int64   (K,)          which of the S tokens get logits
    past_key.N, past_value.N        float32 (B, kv_heads, P, head_dim) for each layer N
Outputs:
    logits          float32 (B, K, vocabulary)
    present_key.N, present_value.N  float32 (B, kv_heads, P + S, head_dim)

Because row 0 is zeros, text and image tokens take one path: level 0 replaces the embedding where image_index > 0, and
levels 1 to D are added behind decoder layers 0 to D - 1, which changes nothing for text. A step that only decodes feeds
the zero row alone.

Source: transformers 5.24 `Qwen3VLTextModel` (QK-norm, grouped heads, interleaved M-RoPE, DeepStack).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hilum_medmo.config import Qwen3VLConfig, TextConfig
from hilum_medmo.graph.vision import rotate
from hilum_medmo.graph.writer import GraphWriter
from hilum_medmo.weights import Weights

_PREFIX = "model.language_model"


def write_decoder(config: Qwen3VLConfig, weights: Weights, folder: Path) -> Path:
    """Write `decoder.onnx` and its data into `folder`.

    Raises:
        CheckpointError: the weights lack a tensor.
    """
    text = config.text
    with GraphWriter("decoder", folder) as graph:
        ids = graph.input("input_ids", np.int64, ["batch", "new"])
        cos, sin = _rotary_tables(graph, text)
        bias = graph.input("attention_bias", np.float32, ["batch", 1, "new", "total"])
        # Rows of a KV head: its query heads one after the other, each with all S tokens (see _attend).
        bias = graph.add("Concat", *[bias] * (text.heads // text.kv_heads), axis=2)
        index = graph.input("image_index", np.int64, ["batch", "new"])
        features = graph.input("image_features", np.float32, [config.image_levels, "rows", text.hidden])
        keep = graph.input("keep", np.int64, ["kept"])
        levels = graph.add_many("Split", config.image_levels, features, axis=0, num_outputs=config.image_levels)
        images = [graph.add("Gather", graph.reshape(level, -1, text.hidden), index) for level in levels]
        table = graph.weight("embed_tokens", weights.read(f"{_PREFIX}.embed_tokens.weight"))
        is_image = graph.add("Unsqueeze", graph.add("Greater", index, graph.integers(0)), graph.integers(2))
        hidden = graph.add("Where", is_image, images[0], graph.add("Gather", table, ids))
        for layer in range(text.layers):
            hidden = _layer(graph, text, weights, layer, hidden, cos, sin, bias)
            if layer + 1 < config.image_levels:
                hidden = graph.add("Add", hidden, images[layer + 1])
        hidden = _norm(graph, text, weights, "norm", graph.add("Gather", hidden, keep, axis=1))
        logits = _head(graph, config, weights, hidden, table)
        graph.output(logits, "logits", ["batch", "kept", text.vocabulary])
        return graph.save()


def _rotary_tables(graph: GraphWriter, text: TextConfig) -> tuple[str, str]:
    """cos and sin, (B, 1, S, head_dim).

    Interleaved M-RoPE: frequency j turns with the height if j % 3 is 1, with the width if j % 3 is 2, as long as j is
    below three times that axis' section, else with time. As a matrix with one non-zero a column this is exact.
    """
    half = text.head_dim // 2
    frequency = 1.0 / np.float32(text.rope_theta) ** (np.arange(0, text.head_dim, 2, dtype=np.float32) / text.head_dim)
    axis = np.zeros(half, np.int64)
    for number in (1, 2):
        axis[number : 3 * text.mrope_section[number] : 3] = number
    matrix = np.zeros((3, half), np.float32)
    matrix[axis, np.arange(half)] = frequency
    positions = graph.add("Transpose", graph.input("position_ids", np.int64, [3, "batch", "new"]), perm=[1, 2, 0])
    angles = graph.add("MatMul", graph.add("Cast", positions, to=1), graph.weight("rotary_frequencies", matrix))
    both = graph.add("Unsqueeze", graph.add("Concat", angles, angles, axis=-1), graph.integers(1))
    return graph.add("Cos", both), graph.add("Sin", both)


def _layer(
    graph: GraphWriter, text: TextConfig, weights: Weights, layer: int, hidden: str, cos: str, sin: str, bias: str
) -> str:
    name = f"layers.{layer}"
    value = _norm(graph, text, weights, f"{name}.input_layernorm", hidden)
    query, key, values = _project(graph, text, weights, layer, value, cos, sin)
    mixed = _attend(graph, text, layer, query, key, values, bias)
    hidden = graph.add("Add", hidden, _linear(graph, weights, f"{name}.self_attn.o_proj", mixed))
    value = _norm(graph, text, weights, f"{name}.post_attention_layernorm", hidden)
    stacked = np.concatenate([weights.read(f"{_PREFIX}.{name}.mlp.{part}_proj.weight") for part in ("gate", "up")])
    gate, up = graph.split(graph.linear(value, f"{name}.mlp.gate_up", stacked, None), [text.intermediate] * 2, axis=-1)
    active = graph.add("Mul", graph.add("Mul", gate, graph.add("Sigmoid", gate)), up)
    return graph.add("Add", hidden, _linear(graph, weights, f"{name}.mlp.down_proj", active))


def _project(
    graph: GraphWriter, text: TextConfig, weights: Weights, layer: int, value: str, cos: str, sin: str
) -> tuple[str, str, str]:
    """Query (B, heads, S, head_dim), already scaled, key and value (B, kv_heads, S, head_dim).

    One matrix product for all three; queries and keys are normalised and rotated together.
    """
    name = f"{_PREFIX}.layers.{layer}.self_attn"
    parts = [f"{name}.{part}_proj" for part in "qkv"]
    kernel = np.concatenate([weights.read(f"{part}.weight") for part in parts])
    bias = np.concatenate([weights.read(f"{part}.bias") for part in parts]) if f"{parts[0]}.bias" in weights else None
    turning = text.heads + text.kv_heads
    qkv = graph.linear(value, f"layers.{layer}.self_attn.qkv", kernel, bias)
    both, values = graph.split(qkv, [turning * text.head_dim, text.kv_heads * text.head_dim], axis=-1)
    both = _rms(graph, text, graph.reshape(both, 0, 0, turning, text.head_dim))
    # ONNX Runtime fuses the norm only with a scale of one axis; the heads' own scales follow.
    both = graph.add("Mul", both, graph.weight(f"layers.{layer}.self_attn.ones", np.ones(text.head_dim, np.float32)))
    both = graph.add("Mul", both, graph.weight(f"layers.{layer}.self_attn.qk_norm", _qk_scale(text, weights, name)))
    both = rotate(graph, graph.add("Transpose", both, perm=[0, 2, 1, 3]), text.head_dim, cos, sin)
    query, key = graph.split(both, [text.heads, text.kv_heads], axis=1)
    values = graph.reshape(values, 0, 0, text.kv_heads, text.head_dim)
    return query, key, graph.add("Transpose", values, perm=[0, 2, 1, 3])


def _qk_scale(text: TextConfig, weights: Weights, name: str) -> NDArray[np.float32]:
    """QK-norm's weights per head (heads + kv_heads, head_dim), the softmax's scale multiplied into the queries'."""
    query = weights.read(f"{name}.q_norm.weight") * np.float32(text.head_dim**-0.5)
    key = weights.read(f"{name}.k_norm.weight")
    return np.concatenate([np.tile(query, (text.heads, 1)), np.tile(key, (text.kv_heads, 1))])


def _attend(graph: GraphWriter, text: TextConfig, layer: int, query: str, key: str, values: str, bias: str) -> str:
    """Attention over cache and new tokens, (B, S, heads · head_dim); declares the layer's cache.

    The query heads of one KV head lie side by side, so they become rows of one matrix product and no key is copied.
    """
    cache: list[int | str] = ["batch", text.kv_heads, "past", text.head_dim]
    total: list[int | str] = ["batch", text.kv_heads, "total", text.head_dim]
    key = graph.add("Concat", graph.input(f"past_key.{layer}", np.float32, cache), key, axis=2)
    values = graph.add("Concat", graph.input(f"past_value.{layer}", np.float32, cache), values, axis=2)
    graph.output(key, f"present_key.{layer}", total)
    graph.output(values, f"present_value.{layer}", total)
    rows = graph.reshape(query, 0, text.kv_heads, -1, text.head_dim)
    scores = graph.add("MatMul", rows, graph.add("Transpose", key, perm=[0, 1, 3, 2]))
    chances = graph.add("Softmax", graph.add("Add", scores, bias), axis=-1)
    mixed = graph.reshape(graph.add("MatMul", chances, values), 0, text.heads, -1, text.head_dim)
    return graph.reshape(graph.add("Transpose", mixed, perm=[0, 2, 1, 3]), 0, 0, text.heads * text.head_dim)


def _linear(graph: GraphWriter, weights: Weights, name: str, value: str) -> str:
    source = f"{_PREFIX}.{name}"
    bias = weights.read(f"{source}.bias") if f"{source}.bias" in weights else None
    return graph.linear(value, name, weights.read(f"{source}.weight"), bias)


def _norm(graph: GraphWriter, text: TextConfig, weights: Weights, name: str, value: str) -> str:
    scale = graph.weight(f"{name}.weight", weights.read(f"{_PREFIX}.{name}.weight"))
    return graph.add("Mul", _rms(graph, text, value), scale)


def _rms(graph: GraphWriter, text: TextConfig, value: str) -> str:
    """value / √(mean(value²) + ε) over the last axis, in the shape ONNX Runtime recognises and fuses."""
    square = graph.add("Pow", value, graph.number(2.0))
    mean = graph.add("ReduceMean", square, graph.integers(-1), keepdims=1)
    root = graph.add("Sqrt", graph.add("Add", mean, graph.number(text.norm_eps)))
    return graph.add("Div", value, root)


def _head(graph: GraphWriter, config: Qwen3VLConfig, weights: Weights, hidden: str, table: str) -> str:
    """Logits. A tied head uses the embedding table itself, transposed by Gemm, so it is stored once."""
    if not config.tied:
        table = graph.weight("lm_head", weights.read("lm_head.weight"))
    rows = graph.add("Gemm", graph.reshape(hidden, -1, config.text.hidden), table, transB=1)
    shape = graph.add("Concat", graph.add("Shape", hidden, end=2), graph.integers(-1), axis=0)
    return graph.add("Reshape", rows, shape)
