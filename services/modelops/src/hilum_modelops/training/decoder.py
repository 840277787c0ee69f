"""The decoder's forward on packed turns: transformers' own modules, one mask, no cache. `tests` compare it with
transformers' forward on single turns."""

# torch and transformers are absent where the product is checked, so their types are Any there.
# mypy: disable-error-code="import-not-found,misc,untyped-decorator,no-any-return"

from typing import Any

import torch
import torch.nn.functional as F

from hilum_modelops.training.kernels import attention, rms_norm
from hilum_modelops.training.packing import IGNORE, Packed


def _rope(language: Any, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    cos, sin = language.rotary_emb(torch.zeros(1, dtype=torch.float32), positions)
    return cos[:, None], sin[:, None]


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return x * cos + torch.cat([-x[..., 32:], x[..., :32]], dim=-1) * sin


LOOKING = (3, 4)
"""In these layers head 0 is taught to look at the finding whose box is being written."""


def decode(
    language: Any, packed: Packed, tokens: torch.Tensor, deep: list[torch.Tensor],
    seen: list[torch.Tensor] | None = None,
) -> torch.Tensor:  # fmt: skip
    """Image tokens (B, T, 256) and DeepStack features to the last hidden state (B, L, 256). `seen` gets the scores
    (B, L, L) of the heads that are taught where to look."""
    image = slice(packed.prefix - 1 - tokens.shape[1], packed.prefix - 1)  # only `<|vision_end|>` follows it
    x = language.embed_tokens(packed.ids)
    x = torch.cat([x[:, : image.start], tokens.to(x.dtype), x[:, image.stop :]], dim=1)
    batch, length, _ = x.shape
    cos, sin = _rope(language, packed.positions)
    bias = torch.zeros(packed.allowed.shape, dtype=torch.bfloat16).masked_fill_(~packed.allowed, -1e4)
    for number, layer in enumerate(language.layers):
        attn, y = layer.self_attn, rms_norm(x, layer.input_layernorm)
        q = rms_norm(attn.q_proj(y).view(batch, length, 4, 64), attn.q_norm).transpose(1, 2)
        k = rms_norm(attn.k_proj(y).view(batch, length, 2, 64), attn.k_norm).transpose(1, 2)
        v = attn.v_proj(y).view(batch, length, 2, 64).transpose(1, 2)
        if number == 0:
            cos, sin, bias = cos.to(v.dtype), sin.to(v.dtype), bias.to(v.dtype)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        if seen is not None and number in LOOKING:
            seen.append(torch.matmul(q[:, 0] * 0.125, k[:, 0].transpose(-1, -2)))
        k, v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)
        mixed = attention(q, k, v, bias)
        x = x + attn.o_proj(mixed.transpose(1, 2).reshape(batch, length, 256))
        x = x + layer.mlp(rms_norm(x, layer.post_attention_layernorm))
        if number < len(deep):
            x = torch.cat([x[:, : image.start], x[:, image] + deep[number], x[:, image.stop :]], dim=1)
    return rms_norm(x, language.norm)


def look_loss(seen: list[torch.Tensor], packed: Packed, image: int) -> torch.Tensor:
    """Mean -log of the attention that a digit pays to the middle of its box; `image` is the first image token."""
    if len(packed.looks) == 0:
        return torch.zeros(())
    rows, at = packed.digit_at.unbind(1)
    hidden = ~packed.allowed[rows, 0, at]
    total = torch.zeros(())
    for scores in seen:
        chosen = scores[rows, at].float().masked_fill(hidden, -1e4)
        total = total + F.cross_entropy(chosen, packed.looks + image) / len(seen)
    return total


def turn_loss(model: Any, packed: Packed, hidden: torch.Tensor, digits: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted cross entropy of the answers, with soft digit targets; also the part of label and end tokens."""
    wanted = packed.targets != IGNORE
    logits = F.linear(hidden[wanted], model.lm_head.weight).float()
    logp = F.log_softmax(logits, dim=-1)
    targets, weights = packed.targets[wanted], packed.weights[wanted]
    loss = -logp.gather(1, targets[:, None])[:, 0]
    if len(packed.soft):
        order = torch.full(packed.targets.shape, -1, dtype=torch.long)
        order[packed.digit_at[:, 0], packed.digit_at[:, 1]] = torch.arange(len(packed.soft))
        row = order[wanted]
        is_digit = row >= 0
        soft = packed.soft[row[is_digit]]
        loss = loss.masked_scatter(is_digit, -(soft * logp[is_digit][:, digits]).sum(1))
    heavy = weights >= 2.5
    part = loss[heavy].mean() if bool(heavy.any()) else loss.sum() * 0
    return (loss * weights).sum() / packed.targets.shape[0] / 25.0, part.detach()
