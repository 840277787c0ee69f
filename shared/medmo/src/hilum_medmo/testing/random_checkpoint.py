"""Writes a complete Qwen3-VL checkpoint with random weights, of any geometry, without torch.

The same geometry and seed give the same bytes on every machine (NumPy's frozen legacy generator), so tests can compare
with golden figures that transformers computed elsewhere. The answers are noise; shapes, files and code paths are real.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_MARKUP = ("<tool_call>", "</tool_call>", "<think>", "</think>")  # added but not special, as in Qwen3's tokenizer
_WORDS = ("Detect", "Ġand", "Ġlocalize", "Ġall", "Ġabnormalities", "Ġimage", "Nodule", "Ġnodule", "Ġthis", "Ġ<", "box")
# Qwen2's pre-tokenizer.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of a Qwen3-VL; see `config.TextConfig` and `config.VisionConfig` for their meaning."""

    layers: int = 4
    hidden: int = 64
    intermediate: int = 96
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    mrope_section: tuple[int, int, int] = (4, 2, 2)
    rope_theta: float = 10_000.0
    vocabulary: int = 360
    tied: bool = True
    attention_bias: bool = False
    max_positions: int = 4096
    vision_depth: int = 4
    vision_hidden: int = 32
    vision_intermediate: int = 64
    vision_heads: int = 2
    positions_per_side: int = 6
    deepstack_layers: tuple[int, ...] = (0, 1, 3)
    min_pixels: int = 32 * 32
    max_pixels: int = 160 * 160


TINY = Geometry()
"""A few layers of everything: for tests."""
NANO = Geometry(
    layers=6,
    hidden=256,
    intermediate=640,
    heads=4,
    kv_heads=2,
    head_dim=64,
    mrope_section=(12, 10, 10),
    vocabulary=1024,
    vision_depth=6,
    vision_hidden=192,
    vision_intermediate=768,
    vision_heads=3,
    positions_per_side=16,
    deepstack_layers=(1, 3, 5),
    min_pixels=32_768,
    max_pixels=51_200,
)
"""MedMO-Nano's sizes: for timings without its weights."""


def write_random_checkpoint(folder: Path, geometry: Geometry = TINY, seed: int = 0) -> None:
    """Write config.json, model.safetensors (bf16), tokenizer.json and the small files of a checkpoint into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = _config(geometry, tokenizer)
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "size": {"shortest_edge": geometry.min_pixels, "longest_edge": geometry.max_pixels},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    stops = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    identity = {
        "name": "MedMO-Random",
        "version": str(seed),
        "simulation": True,
        "disclaimer": "Random weights, not for patients.",
        "labels": ["Nodule"],
        "thresholds": {"Nodule": {"report": 0.1, "urgent": 0.5}},
        "no_finding": "No finding",
    }
    small: dict[str, dict[str, Any]] = {
        "config.json": config,
        "generation_config.json": {"eos_token_id": stops, "do_sample": False},
        "hilum.json": identity,
        "preprocessor_config.json": preprocessor,
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"},
    }
    for name, value in small.items():
        (folder / name).write_text(json.dumps(value, indent=1), encoding="utf-8")
    _write_weights(folder / "model.safetensors", dict(_shapes(geometry)), seed)


def _config(geometry: Geometry, tokenizer: Tokenizer) -> dict[str, Any]:
    text = {
        "model_type": "qwen3_vl_text",
        "attention_bias": geometry.attention_bias,
        "head_dim": geometry.head_dim,
        "hidden_act": "silu",
        "hidden_size": geometry.hidden,
        "intermediate_size": geometry.intermediate,
        "max_position_embeddings": geometry.max_positions,
        "num_attention_heads": geometry.heads,
        "num_hidden_layers": geometry.layers,
        "num_key_value_heads": geometry.kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_scaling": {
            "mrope_interleaved": True,
            "mrope_section": list(geometry.mrope_section),
            "rope_type": "default",
        },
        "rope_theta": geometry.rope_theta,
        "tie_word_embeddings": geometry.tied,
        "vocab_size": geometry.vocabulary,
    }
    vision = {
        "model_type": "qwen3_vl",
        "deepstack_visual_indexes": list(geometry.deepstack_layers),
        "depth": geometry.vision_depth,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": geometry.vision_hidden,
        "in_channels": 3,
        "intermediate_size": geometry.vision_intermediate,
        "num_heads": geometry.vision_heads,
        "num_position_embeddings": geometry.positions_per_side**2,
        "out_hidden_size": geometry.hidden,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    ids = {
        name: tokenizer.token_to_id(f"<|{name}|>") for name in ("image_pad", "video_pad", "vision_start", "vision_end")
    }
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "image_token_id": ids["image_pad"],
        "video_token_id": ids["video_pad"],
        "vision_start_token_id": ids["vision_start"],
        "vision_end_token_id": ids["vision_end"],
        "text_config": text,
        "vision_config": vision,
        "tie_word_embeddings": geometry.tied,
    }


def _tokenizer() -> Tokenizer:
    """Qwen's tokenizer with a byte vocabulary and a handful of merges, spelt out so that no training can vary it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    for word in _WORDS:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocabulary:
                vocabulary[word[:end]] = len(vocabulary)
                merges.append((word[: end - 1], word[end - 1]))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in _SPECIAL])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in _MARKUP])
    return tokenizer


def _shapes(geometry: Geometry) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _vision_shapes(geometry)
    prefix, wide = "model.language_model", geometry.heads * geometry.head_dim
    narrow = geometry.kv_heads * geometry.head_dim
    yield f"{prefix}.embed_tokens.weight", (geometry.vocabulary, geometry.hidden)
    yield f"{prefix}.norm.weight", (geometry.hidden,)
    if not geometry.tied:
        yield "lm_head.weight", (geometry.vocabulary, geometry.hidden)
    for layer in range(geometry.layers):
        name = f"{prefix}.layers.{layer}"
        sizes = {"q": (wide, geometry.hidden), "k": (narrow, geometry.hidden), "v": (narrow, geometry.hidden)}
        sizes["o"] = (geometry.hidden, wide)
        for part, shape in sizes.items():
            yield f"{name}.self_attn.{part}_proj.weight", shape
            if geometry.attention_bias:
                yield f"{name}.self_attn.{part}_proj.bias", shape[:1]
        for part in ("q", "k"):
            yield f"{name}.self_attn.{part}_norm.weight", (geometry.head_dim,)
        for part in ("gate", "up"):
            yield f"{name}.mlp.{part}_proj.weight", (geometry.intermediate, geometry.hidden)
        yield f"{name}.mlp.down_proj.weight", (geometry.hidden, geometry.intermediate)
        for part in ("input", "post_attention"):
            yield f"{name}.{part}_layernorm.weight", (geometry.hidden,)


def _vision_shapes(geometry: Geometry) -> Iterator[tuple[str, tuple[int, ...]]]:
    prefix, width = "model.visual", geometry.vision_hidden
    yield f"{prefix}.patch_embed.proj.weight", (width, 3, 2, 16, 16)
    yield f"{prefix}.patch_embed.proj.bias", (width,)
    yield f"{prefix}.pos_embed.weight", (geometry.positions_per_side**2, width)
    linears = {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "mlp.linear_fc1": (geometry.vision_intermediate, width),
        "mlp.linear_fc2": (width, geometry.vision_intermediate),
    }
    for layer in range(geometry.vision_depth):
        for part, shape in linears.items():
            yield f"{prefix}.blocks.{layer}.{part}.weight", shape
            yield f"{prefix}.blocks.{layer}.{part}.bias", shape[:1]
        for part in ("norm1", "norm2"):
            yield f"{prefix}.blocks.{layer}.{part}.weight", (width,)
            yield f"{prefix}.blocks.{layer}.{part}.bias", (width,)
    mergers = [("merger", width)]
    mergers += [(f"deepstack_merger_list.{n}", 4 * width) for n in range(len(geometry.deepstack_layers))]
    for name, normed in mergers:
        for part, merged in (
            ("norm", (normed,)),
            ("linear_fc1", (4 * width,) * 2),
            ("linear_fc2", (geometry.hidden, 4 * width)),
        ):
            yield f"{prefix}.{name}.{part}.weight", merged
            yield f"{prefix}.{name}.{part}.bias", merged[:1]


def _write_weights(path: Path, shapes: dict[str, tuple[int, ...]], seed: int) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = np.random.RandomState(seed)  # frozen: the same numbers in every NumPy
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            left = math.prod(shape)
            while left:
                count = min(left, _CHUNK)
                file.write(_bf16(_values(generator, name, shape, count)).tobytes())
                left -= count


def _values(generator: np.random.RandomState, name: str, shape: tuple[int, ...], count: int) -> NDArray[np.float32]:
    """Scaled so that activations stay near 1 through any depth and the logits differ."""
    noise = generator.standard_normal(count)
    if name.endswith("bias"):
        return (0.1 * noise).astype(np.float32)
    if len(shape) == 1:
        return (1 + 0.1 * noise).astype(np.float32)
    scale = 0.1 if "embed" in name and "proj" not in name else 1 / math.sqrt(math.prod(shape[1:]))
    return (scale * noise).astype(np.float32)


def _bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to nearest, ties to even."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
