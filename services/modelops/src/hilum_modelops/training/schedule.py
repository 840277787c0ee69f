"""A whole training on one machine: generate images, train the ViT alone, then everything, then everything with more
small findings, by the clock.

Processes of one thread each beat threads of one process on a CPU; they average their gradients through gloo. The work
folder holds everything a resume needs; `run` with the same folder goes on where it stopped.
"""

# torch and transformers are absent where the product is checked, so their types are Any there.
# mypy: disable-error-code="import-not-found,misc,untyped-decorator,no-any-return"

import json
import time
from pathlib import Path

import torch.multiprocessing as processes

from hilum_modelops.training import joint, pool, pretrain, vocabulary

VISION = "vision"
SHARES = {VISION: 0.18, joint.TOGETHER.name: 0.40, joint.SMALL_FIRST.name: 0.42}
"""Of the time, in this order."""
EASY_FIRST = 4000
"""The first images are larger, plainer, single findings (the curriculum)."""


def _train_rank(rank: int, work: Path, end: float, stage: joint.Stage, world: int, seed: int) -> None:
    joint.train(work, end, stage, rank, world, seed)


def end_of(name: str, now: float, until: float, done: set[str]) -> float:
    """When a stage ends that begins now: the stages that are not done share what is left in proportion."""
    left = sum(share for other, share in SHARES.items() if other not in done)
    return now + max(0.0, until - now) * SHARES[name] / left


def run(work: Path, minutes: float, seed: int, count: int) -> None:
    """Trains for about `minutes`; `count` processes. Stages that an earlier run finished stay finished."""
    began = time.time()
    _prepare(work, count)
    done = {name for name in SHARES if (work / f"{name}.done").exists()}
    for name in SHARES:
        if name not in done:
            end = end_of(name, time.time(), began + 60 * minutes, done)
            _see(work, end, seed) if name == VISION else _join(work, end, name, seed, count)
            (work / f"{name}.done").touch()
            done.add(name)
    facts = json.loads((work / "facts.json").read_text())
    facts["minutes"] = round((time.time() - began) / 60)
    (work / "facts.json").write_text(json.dumps(facts))


def _see(work: Path, end: float, seed: int) -> None:
    first_seed = pool.TRAIN_SEED + 100_000 * seed
    writing = (work / "pool", first_seed, end - time.time(), EASY_FIRST)
    processes.get_context("spawn").Process(target=pool.write_shards, args=writing, daemon=True).start()
    pretrain.pretrain(work, end, seed)


def _join(work: Path, end: float, name: str, seed: int, count: int) -> None:
    stage = next(stage for stage in joint.STAGES if stage.name == name)
    (work / "rendezvous").unlink(missing_ok=True)
    processes.spawn(_train_rank, (work, end, stage, count, seed), nprocs=count)


def _prepare(work: Path, count: int) -> None:
    processor = work / "processor"
    processor.mkdir(parents=True, exist_ok=True)
    if not (processor / "tokenizer.json").exists():
        vocabulary.train_tokenizer(processor / "tokenizer.json")
        vocabulary.write_processor_files(processor)
    (work / "processes").write_text(str(count))
    (work / "pool").mkdir(exist_ok=True)
    (work / "pool" / "with-splinters").touch()  # the generator draws them; Feed need not
