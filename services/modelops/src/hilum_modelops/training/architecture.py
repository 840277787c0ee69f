"""MedMO-Nano's configuration: Qwen3-VL in every respect but its sizes."""

# torch and transformers are absent where the product is checked, so their types are Any there.
# mypy: disable-error-code="import-not-found,misc,untyped-decorator,no-any-return"

from typing import Any

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

VISION: dict[str, Any] = {
    "depth": 6, "hidden_size": 192, "intermediate_size": 768, "num_heads": 3, "in_channels": 3, "patch_size": 16,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 256, "num_position_embeddings": 256,
    "deepstack_visual_indexes": [1, 3, 5], "hidden_act": "gelu_pytorch_tanh", "initializer_range": 0.02,
}  # fmt: skip
TEXT: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "hidden_act": "silu", "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "attention_bias": False, "initializer_range": 0.02,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [12, 10, 10],
                        "mrope_interleaved": True},
}  # fmt: skip


def make_config(vocab_size: int, tokens: dict[str, int]) -> Qwen3VLConfig:
    """The configuration for a vocabulary; tokens maps Qwen's special tokens to ids."""
    text = dict(
        TEXT, vocab_size=vocab_size, bos_token_id=tokens["<|endoftext|>"], eos_token_id=tokens["<|im_end|>"],
        pad_token_id=tokens["<|endoftext|>"],
    )  # fmt: skip
    return Qwen3VLConfig(
        text_config=text, vision_config=dict(VISION), image_token_id=tokens["<|image_pad|>"],
        video_token_id=tokens["<|video_pad|>"], vision_start_token_id=tokens["<|vision_start|>"],
        vision_end_token_id=tokens["<|vision_end|>"], tie_word_embeddings=True,
    )  # fmt: skip


def make_model(vocab_size: int, tokens: dict[str, int], seed: int) -> Qwen3VLForConditionalGeneration:
    """A freshly initialised fp32 model."""
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(make_config(vocab_size, tokens))
    return model.float()
