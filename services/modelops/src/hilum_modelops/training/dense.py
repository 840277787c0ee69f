"""The auxiliary dense heads, thrown away after training: where is each label, and what is its box.

They read the patch grid (last hidden state) and the image tokens, so that the box is linear in what the decoder sees.
"""

# torch and transformers are absent where the product is checked, so their types are Any there.
# mypy: disable-error-code="import-not-found,misc,untyped-decorator,no-any-return"

import torch
import torch.nn.functional as F
from torch import nn

from hilum_modelops.generator import LABELS, Finding
from hilum_modelops.training.vision import merge_order

COUNT = len(LABELS)
LABEL_WEIGHTS = (1.0, 1.0, 1.0, 2.0, 1.0, 2.5)
"""Presence weights in the order of LABELS: nodules and fractures are small and come last."""
PERIODS = (1000, 400, 200, 100)
"""A coordinate is coded as its phase in each of these, coarse to fine; the last one's ten phases are the tens digit."""
CODE_SIGMA = 8.0


def _code_table() -> torch.Tensor:
    """(1000, 4, 10): soft phases of each coordinate on the 0-999 grid."""
    values = torch.arange(1000)
    near = torch.exp(-0.5 * ((values[:, None] - values[None]) / CODE_SIGMA) ** 2)
    near /= near.sum(1, keepdim=True)
    phases = [F.one_hot(values % period * 10 // period, 10).float() for period in PERIODS]
    return torch.stack([near @ phase for phase in phases], dim=1)


CODES = _code_table()


class DenseHeads(nn.Module):
    """Per location and label: a presence logit and a box x1 y1 x2 y2 in 0-1 of the image. `digits` reads
    the box's phases from a token linearly, whatever the label, so that the decoder can copy digits, not compute them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Sequential(nn.LayerNorm(192), nn.Linear(192, COUNT * 5))
        self.token = nn.Sequential(nn.LayerNorm(256), nn.Linear(256, COUNT * 5))
        self.digits = nn.Sequential(nn.LayerNorm(256), nn.Linear(256, 4 * len(PERIODS) * 10))

    def forward(self, hidden: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, N, 192) and (B, N/4, 256) to (B, N, labels, 5) and (B, N/4, labels, 5)."""
        return (
            self.patch(hidden).view(*hidden.shape[:2], COUNT, 5).float(),
            self.token(tokens).view(*tokens.shape[:2], COUNT, 5).float(),
        )


def targets(
    findings: list[tuple[Finding, ...]], grid: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Patch presence (B, N, L) and boxes (B, N, L, 4); token presence (B, N/4, L) and boxes (B, N/4, L, 4)."""
    order = merge_order(grid)
    py, px = (order[:, 0] + 0.5) / grid[0], (order[:, 1] + 0.5) / grid[1]
    ty, tx = py.view(-1, 4).mean(1), px.view(-1, 4).mean(1)
    half_y, half_x = 1.0 / grid[0], 1.0 / grid[1]
    batch, count = len(findings), len(order)
    patch_on, token_on = torch.zeros(batch, count, COUNT), torch.zeros(batch, count // 4, COUNT)
    patch_box, token_box = torch.zeros(batch, count, COUNT, 4), torch.zeros(batch, count // 4, COUNT, 4)
    for row, items in enumerate(findings):
        for item in items:
            label = LABELS.index(item.label)
            box = torch.tensor(item.box) / 1000
            cx, cy, w, h = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]
            inside = ((px - cx).abs() < w / 2) & ((py - cy).abs() < h / 2)
            near = ((tx - cx).abs() <= half_x * 1.01) & ((ty - cy).abs() <= half_y * 1.01)
            patch_on[row, inside, label], patch_box[row, inside, label] = 1.0, box
            token_on[row, near, label], token_box[row, near, label] = 1.0, box
    return patch_on, patch_box, token_on, token_box


def _pair_loss(out: torch.Tensor, on: torch.Tensor, box: torch.Tensor, positive: float) -> torch.Tensor:
    weight = (1.0 + (positive - 1.0) * on) * torch.tensor(LABEL_WEIGHTS)
    presence = F.binary_cross_entropy_with_logits(out[..., 0], on, weight=weight, reduction="sum")
    hits = on > 0
    predicted, wanted = out[..., 1:][hits], box[hits]
    if len(wanted) == 0:
        return presence / on.shape[0]
    shift = F.smooth_l1_loss(predicted, wanted, beta=0.02, reduction="none").sum(-1)
    per_place = shift * 6.0 + 0.5 * (1.0 - _giou(predicted, wanted))
    # Each finding weighs about the same, however many patches it covers.
    areas = ((box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]))[hits] * on.shape[1]
    return (presence + 4.0 * (per_place / areas.clamp(min=1.0)).sum()) / on.shape[0]


def _giou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    inter = (high - low).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).clamp(min=1e-3).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inter
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp(min=1e-3).prod(1)
    return inter / union.clamp(min=1e-5) - (hull - union) / hull


def dense_loss(
    heads: DenseHeads, hidden: torch.Tensor, tokens: torch.Tensor, findings: list[tuple[Finding, ...]],
    grid: tuple[int, int],
) -> torch.Tensor:  # fmt: skip
    """Scalar loss, about 1 when nothing is known."""
    patch_out, token_out = heads(hidden, tokens)
    patch_on, patch_box, token_on, token_box = targets(findings, grid)
    patch = _pair_loss(patch_out, patch_on, patch_box, 2.0) / 20
    return patch + _pair_loss(token_out, token_on, token_box, 2.0) / 6 + _code_loss(heads, tokens, token_on, token_box)


def _code_loss(heads: DenseHeads, tokens: torch.Tensor, on: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    row, place, label = torch.nonzero(on, as_tuple=True)
    if len(row) == 0:
        return tokens.sum() * 0
    logits = heads.digits(tokens[row, place]).float().view(len(row), 4, len(PERIODS), 10)
    wanted = CODES[(box[row, place, label] * 1000).round().long().clamp(0, 999)]
    return -(wanted * F.log_softmax(logits, dim=-1)).sum() / 8 / on.shape[0]


@torch.no_grad()
def dense_recall(
    heads: DenseHeads, hidden: torch.Tensor, tokens: torch.Tensor, findings: list[tuple[Finding, ...]]
) -> tuple[list[tuple[str, float]], int]:
    """(label, IoU of the best token of that label, 0 below 0.5 presence) per finding, and boxes on normals."""
    out = heads(hidden, tokens)[1]
    presence = out[..., 0].sigmoid()
    best, where = presence.max(dim=1)
    scores: list[tuple[str, float]] = []
    false = 0
    for row, items in enumerate(findings):
        false += int(not items and bool((best[row] > 0.5).any()))
        for item in items:
            label = LABELS.index(item.label)
            hit = presence[row, :, label] > min(0.5, float(best[row, label]))
            places = torch.nonzero(hit)[:, 0].tolist() if float(best[row, label]) > 0.5 else []
            places = places or ([int(where[row, label])] if float(best[row, label]) > 0.5 else [])
            wanted = (torch.tensor(item.box) / 1000)[None]
            ious = [float(_iou(out[row, p, label, 1:][None], wanted)) for p in places]
            scores.append((item.label, max(ious, default=0.0)))
    return scores, false


def _iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    inter = (high - low).clamp(min=0).prod(1)
    return inter / ((a[:, 2:] - a[:, :2]).clamp(min=0).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inter).clamp(min=1e-6)
