"""First stage: the ViT alone learns to find, through the dense heads."""

# torch and transformers are absent where the product is checked, so their types are Any there.
# mypy: disable-error-code="import-not-found,misc,untyped-decorator,no-any-return"

import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionConfig, Qwen3VLVisionModel

from hilum_modelops.generator import Finding
from hilum_modelops.training import pool
from hilum_modelops.training.architecture import VISION
from hilum_modelops.training.dense import DenseHeads, dense_loss, dense_recall
from hilum_modelops.training.feed import Feed
from hilum_modelops.training.vision import encode, patches

BATCH = 24
PATIENCE_S = 60.0
"""How long after the stage's end the first images may come."""


def read_threads(path: Path) -> None:
    """Sets torch's thread count from a control file, if it holds a number."""
    try:
        torch.set_num_threads(max(1, int(path.read_text())))
    except (OSError, ValueError):
        return


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Writes beside, then renames."""
    torch.save(state, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def validation(count: int) -> list[tuple[tuple[int, int], Any, tuple[Finding, ...]]]:
    """Validation samples: never trained on, not the 500 of the evaluation."""
    return [pool.sample(pool.VALIDATION_SEED + i) for i in range(count)]


def score(visual: Any, heads: DenseHeads, samples: list[Any]) -> str:
    """Recall per label at IoU 0.5 of the dense heads on validation samples."""
    hits: dict[str, list[float]] = defaultdict(list)
    false = normals = 0
    for grid in {s[0] for s in samples}:
        group = [s for s in samples if s[0] == grid]
        pixels = torch.stack([torch.from_numpy(s[1].copy()) for s in group])
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            hidden, tokens, _ = encode(visual, patches(pixels), grid)
        found, bad = dense_recall(heads, hidden.float(), tokens.float(), [s[2] for s in group])
        false, normals = false + bad, normals + sum(not s[2] for s in group)
        for label, iou in found:
            hits[label].append(iou)
    parts = [f"{k[:8]} {sum(i >= 0.5 for i in v)}/{len(v)} {sum(v) / len(v):.2f}" for k, v in sorted(hits.items())]
    every = [i for v in hits.values() for i in v]
    return f"recall {sum(i >= 0.5 for i in every) / len(every):.3f} fp {false}/{normals} | " + ", ".join(parts)


def pretrain(work: Path, until: float, seed: int = 1, rate: float = 8e-4) -> None:
    """Runs until a wall-clock time (Unix seconds); saves work/vision.pt every minute.

    TimeoutError: nobody draws images.
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    visual = Qwen3VLVisionModel(Qwen3VLVisionConfig(**VISION)).float()
    heads = DenseHeads()
    weights = [*visual.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    feed, samples = Feed(work / "pool", seed), validation(256)
    while feed.refresh() == 0:
        if time.time() > until + PATIENCE_S:
            raise TimeoutError(f"no images in {work / 'pool'}")
        time.sleep(1)
    start = saved = time.time()
    total, mean = 0, 0.0
    for step in range(10_000_000):
        now = time.time()
        if now > until:
            break
        if step % 50 == 0:
            read_threads(work / "processes")
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 150) * max(0.05, min(1.0, (until - now) / 300))
        batch = feed.next(BATCH)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden, tokens, _ = encode(visual, patches(batch.pixels), batch.grid)
            loss = dense_loss(heads, hidden.float(), tokens.float(), batch.findings, batch.grid)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        total, mean = total + BATCH, loss.item() if step == 0 else 0.98 * mean + 0.02 * loss.item()
        if step % 50 == 0:
            rate_now = total / (time.time() - start)
            print(
                f"{time.time() - start:6.0f}s step {step} loss {mean:.3f} {rate_now:.1f}/s fresh {feed.fresh}",
                flush=True,
            )
        if time.time() - saved > 60:
            saved = time.time()
            save_atomically(
                {"visual": visual.state_dict(), "heads": heads.state_dict(), "samples": total}, work / "vision.pt"
            )
            print(score(visual, heads, samples), flush=True)
    save_atomically({"visual": visual.state_dict(), "heads": heads.state_dict(), "samples": total}, work / "vision.pt")
