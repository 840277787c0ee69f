"""Second stage: ViT and decoder together, by the clock: the rate reaches zero at the planned end, whatever the speed."""

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from hilum_modelops.training.architecture import make_model
from hilum_modelops.training.decoder import decode, turn_loss
from hilum_modelops.training.dense import DenseHeads, dense_loss
from hilum_modelops.training.feed import Feed
from hilum_modelops.training.packing import Packer
from hilum_modelops.training.pretrain import read_threads, save_atomically
from hilum_modelops.training.vision import encode, patches
from hilum_modelops.training.vocabulary import SPECIAL

BATCH = 16
SAVE_EVERY_S = 150


class Trainer:
    """Model, dense heads, optimiser and average; everything that a resume needs."""

    def __init__(self, work: Path, seed: int) -> None:
        self.work = work
        tokenizer = AutoTokenizer.from_pretrained(work / "processor")
        tokens = {t: tokenizer.convert_tokens_to_ids(t) for t in SPECIAL}
        self.model = make_model(len(tokenizer), tokens, seed)
        self.heads = DenseHeads()
        self.packer = Packer(tokenizer, seed)
        self.weights = [*self.model.parameters(), *self.heads.parameters()]
        plain = [p for p in self.weights if p.ndim < 2]
        decayed = [p for p in self.weights if p.ndim >= 2]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))
        self.average = [p.detach().clone() for p in self.model.parameters()]
        self.samples, self.step, self.seconds, self.vision_samples = 0, 0, 0.0, 0
        self._load()

    def _load(self) -> None:
        latest, vision = self.work / "joint.pt", self.work / "vision.pt"
        if latest.exists():
            state = torch.load(latest, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.heads.load_state_dict(state["heads"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.average = state["average"]
            self.samples, self.step, self.seconds, self.vision_samples = state["progress"]
        elif vision.exists():
            state = torch.load(vision, weights_only=True)
            self.model.model.visual.load_state_dict(state["visual"])
            self.heads.load_state_dict(state["heads"])
            self.vision_samples = state["samples"]
            self.average = [p.detach().clone() for p in self.model.parameters()]

    def save(self) -> None:
        """Saves all of it, atomically."""
        progress = (self.samples, self.step, self.seconds, self.vision_samples)
        state = {"model": self.model.state_dict(), "heads": self.heads.state_dict(), "average": self.average,
                 "optimiser": self.optimiser.state_dict(), "progress": progress}  # fmt: skip
        save_atomically(state, self.work / "joint.pt")

    def update(self, batch: Any, rate: float, talk: float, dense_weight: float) -> tuple[float, float, float]:
        """One step; answers the loss of the answers, of their label tokens, and of the dense heads."""
        packed = self.packer.pack(batch.findings, batch.grid, talk)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden, tokens, deep = encode(self.model.model.visual, patches(batch.pixels), batch.grid)
            state = decode(self.model.model.language_model, packed, tokens, deep)
            text, part = turn_loss(self.model, packed, state, self.packer.digits)
            dense = dense_loss(self.heads, hidden.float(), tokens.float(), batch.findings, batch.grid)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        (text + dense_weight * dense).backward()  # type: ignore[no-untyped-call]  # torch has no annotation here
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimiser.step()
        self.step, self.samples = self.step + 1, self.samples + len(batch.findings)
        if self.step % 4 == 0:
            keep = min(0.994, (1 + self.step / 4) / (10 + self.step / 4))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.model.parameters()], 1 - keep)
        return text.item(), part.item(), dense.item()


def rate_at(peak: float, start: float, end: float, now: float) -> float:
    """Cosine from peak to zero at `end`, after a minute of warm-up."""
    share = min(1.0, max(0.0, (now - start) / (end - start)))
    return peak * 0.5 * (1 + math.cos(math.pi * share)) * min(1.0, (now - start) / 60 + 0.02)


def train(work: Path, end: float, seed: int = 1, peak: float = 8e-4, talk: float = 0.5) -> None:
    """Trains until `end` (Unix seconds); resumes from work/joint.pt where there is one."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    trainer = Trainer(work, seed)
    feed = Feed(work / "pool", seed + trainer.step)
    plan = work / "joint.start"
    if trainer.step == 0:
        plan.write_text(str(time.time()))
    start = float(plan.read_text())
    saved = begun = time.time()
    mean = [0.0, 0.0, 0.0]
    done = trainer.samples
    while (now := time.time()) < end:
        if trainer.step % 50 == 0:
            read_threads(work.parent / "train.threads")
        dense_weight = 0.2 if now - start < 900 else 0.1
        losses = trainer.update(feed.next(BATCH), rate_at(peak, start, end, now), talk, dense_weight)
        mean = [0.98 * m + 0.02 * v if trainer.step > 1 and m else v for m, v in zip(mean, losses, strict=True)]
        if trainer.step % 50 == 0:
            speed = (trainer.samples - done) / (time.time() - begun)
            print(
                f"{time.strftime('%H:%M:%S', time.gmtime())} step {trainer.step} text {mean[0]:.3f} label {mean[1]:.3f} "
                f"dense {mean[2]:.3f} {speed:.1f}/s samples {trainer.samples} fresh {feed.fresh}", flush=True,
            )  # fmt: skip
        if now - saved > SAVE_EVERY_S:
            trainer.seconds, saved = trainer.seconds + now - saved, now
            trainer.save()
    trainer.seconds += time.time() - saved
    trainer.save()
    facts = {"samples": trainer.samples, "steps": trainer.step, "seconds": round(trainer.seconds), "seed": seed,
             "vision_samples": trainer.vision_samples, "generated": feed.fresh}  # fmt: skip
    (work / "facts.json").write_text(json.dumps(facts))
