"""The ViT's forward for a batch of images with one grid: transformers' own modules and weights, without its per-image
loop. `tests` compare it with transformers' forward."""

# torch and transformers are absent where the product is checked, so their types are Any there.
# mypy: disable-error-code="import-not-found,misc,untyped-decorator,no-any-return"

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F

from hilum_modelops.training.kernels import attention

HEADS = 3


def merge_order(grid: tuple[int, int]) -> torch.Tensor:
    """(N, 2) row and column of each patch, in the order in which Qwen3-VL lists them (merge block by merge block)."""
    rows, cols = grid
    index = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij"), dim=-1)
    return index.view(rows // 2, 2, cols // 2, 2, 2).permute(0, 2, 1, 3, 4).reshape(-1, 2)


def patches(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 or float (B, H, W), 0-255, to normalised grey patches (B, N, 256) in merge order."""
    batch, high, wide = pixels.shape
    x = pixels.float() / 127.5 - 1.0
    x = x.view(batch, high // 32, 2, 16, wide // 32, 2, 16).permute(0, 1, 4, 2, 5, 3, 6)
    return x.reshape(batch, -1, 256)


@lru_cache(maxsize=32)
def _rope(grid: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin (N, 64) of the 2-D rotary embedding."""
    freq = 1.0 / (10000.0 ** (torch.arange(0, 32, 2, dtype=torch.float) / 32))
    angles = merge_order(grid)[:, :, None].float() * freq
    flat = torch.cat([angles[:, 0], angles[:, 1]], dim=-1)
    both = torch.cat([flat, flat], dim=-1)
    return both.cos(), both.sin()


@lru_cache(maxsize=32)
def _positions(grid: tuple[int, int], side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices and weights (N, 4) of the bilinear, corner-aligned resampling of the learned positions."""
    order = merge_order(grid)
    ys = torch.linspace(0, side - 1, grid[0])[order[:, 0]]
    xs = torch.linspace(0, side - 1, grid[1])[order[:, 1]]
    y0, x0 = ys.floor().long(), xs.floor().long()
    y1, x1 = (y0 + 1).clamp(max=side - 1), (x0 + 1).clamp(max=side - 1)
    dy, dx = ys - y0, xs - x0
    index = torch.stack([y0 * side + x0, y0 * side + x1, y1 * side + x0, y1 * side + x1], dim=1)
    weight = torch.stack([(1 - dy) * (1 - dx), (1 - dy) * dx, dy * (1 - dx), dy * dx], dim=1)
    return index, weight


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = torch.cat([-x[..., 32:], x[..., :32]], dim=-1)
    return x * cos + half * sin


def encode(
    visual: Any, grey: torch.Tensor, grid: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """grey patches (B, N, 256) to last hidden (B, N, 192), image tokens (B, N/4, 256) and DeepStack features."""
    batch, count, _ = grey.shape
    proj = visual.patch_embed.proj
    weight = proj.weight.sum(dim=(1, 2)).reshape(192, 256)  # a grey still image repeats over channel and time
    index, share = _positions(grid, visual.num_grid_per_side)
    x = F.linear(grey, weight, proj.bias) + (visual.pos_embed(index) * share[:, :, None]).sum(1)
    x = x.float()
    cos, sin = _rope(grid)
    deep: list[torch.Tensor] = []
    for layer, block in enumerate(visual.blocks):
        qkv = block.attn.qkv(block.norm1(x)).view(batch, count, 3, HEADS, 64).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = _rotate(q, cos.to(q.dtype), sin.to(q.dtype)), _rotate(k, cos.to(k.dtype), sin.to(k.dtype))
        mixed = attention(q, k, v).transpose(1, 2).reshape(batch, count, 192)
        x = x + block.attn.proj(mixed)
        x = x + block.mlp(block.norm2(x))
        if layer in visual.deepstack_visual_indexes:
            merger = visual.deepstack_merger_list[list(visual.deepstack_visual_indexes).index(layer)]
            deep.append(merger(x).view(batch, count // 4, 256))
    return x, visual.merger(x).view(batch, count // 4, 256), deep
