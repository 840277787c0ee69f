"""Second stage: ViT and decoder together, by the clock: the rate reaches zero at the end, whatever the speed."""

# torch and transformers are absent where the product is checked, so their types are Any there.
# mypy: disable-error-code="import-not-found,misc,untyped-decorator,no-any-return"

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from transformers import AutoTokenizer

from hilum_modelops.training.architecture import make_model
from hilum_modelops.training.decoder import decode, look_loss, turn_loss
from hilum_modelops.training.dense import DenseHeads, dense_loss
from hilum_modelops.training.feed import Feed
from hilum_modelops.training.packing import Packer
from hilum_modelops.training.pretrain import save_atomically
from hilum_modelops.training.vision import encode, patches
from hilum_modelops.training.vocabulary import SPECIAL

BATCH = 12
SAVE_EVERY_S = 150


@dataclass(frozen=True, slots=True)
class Stage:
    """How one cosine trains. Shares are of its time.

    talk: share of batches with a report or questions beside the location. vision_first: until then every other step
    trains the ViT alone, for seeing is what takes longest. small: share of images with a small finding until
    small_until, then as drawn. look: weight of the taught attention. dense: weight of the dense heads until two thirds,
    then half of it.
    """

    name: str
    peak: float
    talk: float
    vision_first: float
    small: float | None
    small_until: float
    look: float
    dense: float


TOGETHER = Stage("together", 8e-4, 0.5, 0.6, None, 0.0, 0.1, 0.2)
SMALL_FIRST = Stage("small-first", 4.5e-4, 0.3, 0.0, 0.65, 0.67, 0.2, 0.3)
STAGES = (TOGETHER, SMALL_FIRST)


class Trainer:
    """Model, dense heads, optimiser and average; everything that a resume needs."""

    def __init__(self, work: Path, stage: Stage, seed: int, world: int = 1) -> None:
        self.work, self.stage, self.world = work, stage, world
        self.start, self.end = 0.0, 0.0
        self.now, self.change = 0.0, False
        self.tokenizer = tokenizer = AutoTokenizer.from_pretrained(work / "processor")
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
            self.heads.load_state_dict(state["heads"], strict=False)
            if state.get("stage") == self.stage.name:
                self.optimiser.load_state_dict(state["optimiser"])
                self.average = state["average"]
            else:
                self.average = [p.detach().clone() for p in self.model.parameters()]
            self.samples, self.step, self.seconds, self.vision_samples = state["progress"]
        elif vision.exists():
            state = torch.load(vision, weights_only=True)
            self.model.model.visual.load_state_dict(state["visual"])
            self.heads.load_state_dict(state["heads"], strict=False)
            self.vision_samples = state["samples"]
            self.average = [p.detach().clone() for p in self.model.parameters()]

    def save(self) -> None:
        """Saves all of it, atomically."""
        progress = (self.samples, self.step, self.seconds, self.vision_samples)
        state = {"model": self.model.state_dict(), "heads": self.heads.state_dict(), "average": self.average,
                 "optimiser": self.optimiser.state_dict(), "progress": progress, "stage": self.stage.name}  # fmt: skip
        save_atomically(state, self.work / "joint.pt")

    def _agree(self) -> None:
        """Averages gradients, the clock and the wish to stop over all processes, so that they stay one model."""
        wanted = workers_wanted(self.work, self.world)
        extra = torch.tensor([time.time() - self.start, float(wanted != self.world)])
        if self.world > 1:
            grads = [p.grad for p in self.weights if p.grad is not None]  # the same ones in every process
            flat = torch.cat([g.reshape(-1) for g in grads] + [extra])
            distributed.all_reduce(flat)
            flat /= self.world
            at = 0
            for grad in grads:
                grad.copy_(flat[at : at + grad.numel()].view_as(grad))
                at += grad.numel()
            extra = flat[at:]
        self.now, self.change = self.start + float(extra[0]), float(extra[1]) > 0

    @property
    def share(self) -> float:
        """Of the stage's time, what is gone."""
        return (self.now - self.start) / (self.end - self.start)

    def update(self, batch: Any, talking: bool) -> tuple[float, float, float, float]:
        """One step; answers the loss of the answers, of their label tokens, of the dense heads, and of the looks. When
        not talking, the decoder rests and only the ViT learns, through the dense heads."""
        text = part = look = torch.zeros(())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden, tokens, deep = encode(self.model.model.visual, patches(batch.pixels), batch.grid)
            if talking:
                packed = self.packer.pack(batch.findings, batch.grid, self.stage.talk)
                seen: list[torch.Tensor] = []
                state = decode(self.model.model.language_model, packed, tokens, deep, seen)
                text, part = turn_loss(self.model, packed, state, self.packer.digits)
                look = look_loss(seen, packed, packed.prefix - 1 - tokens.shape[1])
            dense = dense_loss(self.heads, hidden.float(), tokens.float(), batch.findings, batch.grid)
        dense_weight = self.stage.dense * (1.0 if self.share < 0.67 else 0.5)
        self.optimiser.zero_grad(set_to_none=True)
        (text + self.stage.look * look + dense_weight * dense).backward()
        self._agree()
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(self.stage.peak, self.start, self.end, self.now)
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimiser.step()
        self.step, self.samples = self.step + 1, self.samples + len(batch.findings) * self.world * talking
        self.vision_samples += len(batch.findings) * self.world * (not talking)
        if self.step % 4 == 0:
            keep = min(0.994, (1 + self.step / 4) / (10 + self.step / 4))
            torch._foreach_lerp_(self.average, [p.detach() for p in self.model.parameters()], 1 - keep)
        return text.item(), part.item(), dense.item(), look.item()


def rate_at(peak: float, start: float, end: float, now: float) -> float:
    """Cosine from peak to zero at `end`, after a minute of warm-up."""
    share = min(1.0, max(0.0, (now - start) / (end - start)))
    return peak * 0.5 * (1 + math.cos(math.pi * share)) * min(1.0, (now - start) / 60 + 0.02)


def workers_wanted(work: Path, otherwise: int) -> int:
    """The number in the control file of the work folder: how many processes, one thread each, may train."""
    try:
        return max(1, min(2, int((work / "processes").read_text())))
    except (OSError, ValueError):
        return otherwise


def train(work: Path, end: float, stage: Stage, rank: int = 0, world: int = 1, seed: int = 1) -> bool:
    """Trains a stage until `end` (Unix seconds), resuming from work/joint.pt. True: stopped to change the process
    count."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    if world > 1:
        distributed.init_process_group("gloo", init_method=f"file://{work}/rendezvous", rank=rank, world_size=world)
    trainer = Trainer(work, stage, seed, world)
    trainer.end = end
    feed = Feed(work / "pool", 1000 * seed + trainer.step * 2 + rank)
    trainer.packer = Packer(trainer.tokenizer, 1000 * seed + trainer.step * 2 + rank)
    plan = work / f"{stage.name}.start"
    if not plan.exists() and rank == 0:
        save_text(str(time.time()), plan)
    while not plan.exists():
        time.sleep(0.1)
    trainer.start = trainer.now = float(plan.read_text())
    _loop(trainer, feed, rank)
    if rank == 0:
        facts = {"samples": trainer.samples, "steps": trainer.step, "seconds": round(trainer.seconds), "seed": seed,
                 "vision_samples": trainer.vision_samples, "generated": feed.fresh}  # fmt: skip
        (work / "facts.json").write_text(json.dumps(facts))
    return trainer.change and trainer.now < end


def save_text(text: str, path: Path) -> None:
    """Writes beside, then renames."""
    path.with_suffix(".part").write_text(text)
    path.with_suffix(".part").rename(path)


def _loop(trainer: Trainer, feed: Feed, rank: int) -> None:
    saved = begun = time.time()
    stage, mean, done = trainer.stage, [0.0, 0.0, 0.0, 0.0], trainer.samples
    while trainer.now < trainer.end and not trainer.change:
        talking = trainer.share >= stage.vision_first or trainer.step % 2 == 1
        batch = feed.next(BATCH if talking else 2 * BATCH, stage.small if trainer.share < stage.small_until else None)
        losses = trainer.update(batch, talking)
        mean = [0.98 * m + 0.02 * v if m and v else m or v for m, v in zip(mean, losses, strict=True)]
        now = time.time()
        if rank == 0 and trainer.step % 50 == 0:
            print(
                f"{time.strftime('%H:%M:%S', time.gmtime())} {stage.name} step {trainer.step} text {mean[0]:.3f} "
                f"label {mean[1]:.3f} dense {mean[2]:.3f} look {mean[3]:.3f} "
                f"{(trainer.samples - done) / (now - begun):.1f}/s samples {trainer.samples} "
                f"vision {trainer.vision_samples} fresh {feed.fresh}", flush=True,
            )  # fmt: skip
        if rank == 0 and now - saved > SAVE_EVERY_S:
            trainer.seconds, saved = trainer.seconds + now - saved, now
            trainer.save()
    trainer.seconds += time.time() - saved
    if rank == 0:
        trainer.save()
