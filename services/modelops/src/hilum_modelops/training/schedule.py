"""A whole training on one machine: generate images, train the ViT alone, then everything, by the clock.

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

VISION_SHARE = 0.25
EASY_FIRST = 4000
"""The first images are larger, plainer, single findings (the curriculum)."""


def _train_rank(rank: int, work: Path, end: float, world: int, seed: int) -> None:
    joint.train(work, end, rank, world, seed)


def run(work: Path, minutes: float, seed: int, count: int) -> None:
    """Trains for about `minutes`; `count` processes."""
    began, seconds = time.time(), 60 * minutes
    processor = work / "processor"
    processor.mkdir(parents=True, exist_ok=True)
    if not (processor / "tokenizer.json").exists():
        vocabulary.train_tokenizer(processor / "tokenizer.json")
        vocabulary.write_processor_files(processor)
    (work.parent / "train.threads").write_text(str(count))
    (work / "pool").mkdir(exist_ok=True)
    (work / "pool" / "with-splinters").touch()  # the generator draws them; Feed need not
    context = processes.get_context("spawn")
    first_seed = pool.TRAIN_SEED + 100_000 * seed
    writer = context.Process(
        target=pool.write_shards, args=(work / "pool", first_seed, VISION_SHARE * seconds, EASY_FIRST), daemon=True
    )
    writer.start()
    if not (work / "joint.pt").exists():
        pretrain.pretrain(work, began + VISION_SHARE * seconds, seed)
    (work / "rendezvous").unlink(missing_ok=True)
    processes.spawn(_train_rank, (work, began + seconds, count, seed), nprocs=count)
    facts = json.loads((work / "facts.json").read_text())
    facts["minutes"] = round((time.time() - began) / 60)
    (work / "facts.json").write_text(json.dumps(facts))
