"""Sizes of a Qwen3-VL checkpoint, read from its config.json. Nothing is assumed from the model's name.

Source: transformers 5.24 `configuration_qwen3_vl.py`; both spellings of the rotary settings are read, `rope_theta` with
`rope_scaling` (transformers 4, the published MedMO weights) and `rope_parameters` (transformers 5).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hilum_medmo.errors import CheckpointError

_DEFAULT_TEXT_THETA = 500_000.0  # transformers 5.24: Qwen3VLTextConfig.default_theta
_DEFAULT_VISION_THETA = 10_000.0
_DEFAULT_SECTION = (24, 20, 20)


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """The vision encoder (ViT). Sizes are counts of channels, layers, heads or pixels.

    `deepstack_layers` are 0-based layer indices in the order of the checkpoint's DeepStack mergers.
    """

    depth: int
    hidden: int
    intermediate: int
    heads: int
    channels: int
    patch: int
    temporal_patch: int
    merge: int
    out_hidden: int
    positions_per_side: int
    deepstack_layers: tuple[int, ...]
    activation: str
    rope_theta: float

    @property
    def head_dim(self) -> int:
        """Channels per attention head."""
        return self.hidden // self.heads

    @property
    def patch_values(self) -> int:
        """Values per flattened patch: channels · temporal patch · patch²."""
        return self.channels * self.temporal_patch * self.patch**2


@dataclass(frozen=True, slots=True)
class TextConfig:
    """The decoder. `mrope_section` counts rotary frequencies for time, height and width; it sums to head_dim / 2."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    max_positions: int
    norm_eps: float
    attention_bias: bool
    rope_theta: float
    mrope_section: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Qwen3VLConfig:
    """A whole Qwen3-VL. `tied` says that the output head is the embedding table."""

    text: TextConfig
    vision: VisionConfig
    tied: bool
    image_token: int
    vision_start_token: int
    vision_end_token: int

    @property
    def image_levels(self) -> int:
        """Feature vectors per image token: the merged one and one for each DeepStack layer."""
        return 1 + len(self.vision.deepstack_layers)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of the checkpoint.

    Raises:
        CheckpointError: no such file, no JSON, or JSON but no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return value


def read_config(checkpoint: Path) -> Qwen3VLConfig:
    """Read config.json of a checkpoint folder.

    Raises:
        CheckpointError: it is missing, no Qwen3-VL, lacks a size, or its sizes contradict each other.
    """
    raw = read_json(checkpoint / "config.json")
    if raw.get("model_type") != "qwen3_vl":
        raise CheckpointError(f"{checkpoint}/config.json: model_type is {raw.get('model_type')!r}, not 'qwen3_vl'")
    try:
        config = Qwen3VLConfig(
            text=_text(raw["text_config"]),
            vision=_vision(raw["vision_config"]),
            tied=bool(raw.get("tie_word_embeddings", raw["text_config"].get("tie_word_embeddings", False))),
            image_token=int(raw["image_token_id"]),
            vision_start_token=int(raw["vision_start_token_id"]),
            vision_end_token=int(raw["vision_end_token_id"]),
        )
    except KeyError as error:
        raise CheckpointError(f"{checkpoint}/config.json lacks {error.args[0]!r}") from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint}/config.json: {error}") from error
    _check(config, checkpoint)
    return config


def _text(raw: Mapping[str, Any]) -> TextConfig:
    if raw.get("hidden_act", "silu") != "silu":
        raise ValueError(f"decoder activation {raw['hidden_act']!r} is not supported")
    rope = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise ValueError(f"rotary embedding of type {kind!r} is not supported")
    t, h, w = (int(n) for n in rope.get("mrope_section", _DEFAULT_SECTION))
    heads, hidden = int(raw["num_attention_heads"]), int(raw["hidden_size"])
    return TextConfig(
        layers=int(raw["num_hidden_layers"]),
        hidden=hidden,
        intermediate=int(raw["intermediate_size"]),
        heads=heads,
        kv_heads=int(raw.get("num_key_value_heads") or heads),
        head_dim=int(raw.get("head_dim") or hidden // heads),
        vocabulary=int(raw["vocab_size"]),
        max_positions=int(raw.get("max_position_embeddings", 128_000)),
        norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        attention_bias=bool(raw.get("attention_bias", False)),
        rope_theta=float(rope.get("rope_theta") or raw.get("rope_theta") or _DEFAULT_TEXT_THETA),
        mrope_section=(t, h, w),
    )


def _vision(raw: Mapping[str, Any]) -> VisionConfig:
    activation = str(raw.get("hidden_act", "gelu_pytorch_tanh"))
    if activation not in ("gelu_pytorch_tanh", "gelu"):
        raise ValueError(f"vision activation {activation!r} is not supported")
    positions = int(raw["num_position_embeddings"])
    rope = raw.get("rope_parameters") or {}
    return VisionConfig(
        depth=int(raw["depth"]),
        hidden=int(raw["hidden_size"]),
        intermediate=int(raw["intermediate_size"]),
        heads=int(raw["num_heads"]),
        channels=int(raw.get("in_channels", 3)),
        patch=int(raw.get("patch_size", 16)),
        temporal_patch=int(raw.get("temporal_patch_size", 2)),
        merge=int(raw.get("spatial_merge_size", 2)),
        out_hidden=int(raw["out_hidden_size"]),
        positions_per_side=math.isqrt(positions),
        deepstack_layers=tuple(int(n) for n in raw["deepstack_visual_indexes"]),
        activation=activation,
        rope_theta=float(rope.get("rope_theta") or _DEFAULT_VISION_THETA),
    )


def _check(config: Qwen3VLConfig, checkpoint: Path) -> None:
    text, vision = config.text, config.vision
    problems = {
        "num_attention_heads is no multiple of num_key_value_heads": text.heads % text.kv_heads != 0,
        "mrope_section does not sum to head_dim / 2": 2 * sum(text.mrope_section) != text.head_dim,
        "vision hidden_size is no multiple of 4 · num_heads": vision.hidden % (4 * vision.heads) != 0,
        "out_hidden_size is not the decoder's hidden_size": vision.out_hidden != text.hidden,
        "more DeepStack layers than decoder layers": len(vision.deepstack_layers) > text.layers,
        "a DeepStack layer beyond the vision depth": any(not 0 <= n < vision.depth for n in vision.deepstack_layers),
    }
    found = [problem for problem, present in problems.items() if present]
    if found:
        raise CheckpointError(f"{checkpoint}/config.json: {'; '.join(found)}")
