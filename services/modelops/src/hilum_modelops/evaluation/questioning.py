"""Asks the shipped model about generated radiographs and keeps what it said, one JSON line per image."""

import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hilum_medmo import MedMO, Request, load
from hilum_medmo.grounding import GrammarError, parse, score
from hilum_modelops import answers
from hilum_modelops.generator import LABELS, draw_shape, render
from hilum_modelops.generator.scene import Box

VALIDATION_SEED, TEST_SEED = 8_000_000, 9_000_000
MEAN_SIDE = 512
"""The evaluated images have about this many pixels squared; the processor shrinks them."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One image: truth and answers; boxes in pixels of the image. asked: label, answer, truth of a yes/no question."""

    seed: int
    shape: tuple[int, int]
    truth: list[tuple[str, Box]]
    contrasts: list[float]
    said: list[tuple[str, Box, float]]
    text: str
    malformed: bool
    report: str
    wanted_report: str
    asked: list[tuple[str, str, bool]]
    seconds: float


@cache
def _model(folder: str) -> MedMO:
    return load(Path(folder), threads=1)


def answer_one(folder: str, seed: int, variant: str, talk: bool) -> Answered:
    """Renders a seed and asks: location always; with `talk` also a report and one question per kind of answer."""
    rows, cols = draw_shape(seed, MEAN_SIDE)
    film = render(seed, variant=variant, rows=rows, cols=cols)
    image = np.repeat(np.round(film.pixels * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    model = _model(folder)
    generation = model.generate(Request((image,), answers.LOCATE, 200))
    said, malformed = [], False
    try:
        items = parse(generation.text, no_finding=model.identity.no_finding)
        scale = (cols / 1000, rows / 1000, cols / 1000, rows / 1000)
        for item, scores in zip(items, score(generation, items), strict=True):
            for box, one in zip(item.boxes, scores, strict=True):
                x1, y1, x2, y2 = (v * s for v, s in zip((box.x1, box.y1, box.x2, box.y2), scale, strict=True))
                said.append((item.label, (x1, y1, x2, y2), round(one.confidence, 4)))
    except GrammarError:
        malformed = True
    report, asked = "", []
    if talk:
        report = model.generate(Request((image,), answers.REPORT, 160)).text
        rng = np.random.default_rng([seed, 5])
        present = [label for label in LABELS if any(f.label == label for f in film.findings)]
        absent = [label for label in LABELS if label not in present]
        for label in [str(rng.choice(group)) for group in (present, absent) if group]:
            prompt = answers.presence_question(rng, label)
            asked.append((label, model.generate(Request((image,), prompt, 12)).text, label in present))
    return Answered(
        seed, (rows, cols), [(f.label, f.box) for f in film.findings], [f.contrast for f in film.findings], said,
        generation.text, malformed, report, answers.report(film.findings), asked, generation.timings.total_s,
    )  # fmt: skip


def _task(task: tuple[str, int, str, bool]) -> Answered:
    return answer_one(*task)


def answer_all(folder: Path, first_seed: int, count: int, variant: str, talk: bool, workers: int) -> Iterator[Answered]:
    """Images first_seed ... first_seed + count - 1, in order."""
    _model(str(folder))  # builds the ONNX graphs once, before the workers load them
    tasks = [(str(folder), first_seed + i, variant, talk) for i in range(count)]
    if workers == 1:
        yield from map(_task, tasks)
        return
    _model.cache_clear()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as processes:  # sessions don't survive fork
        yield from processes.map(_task, tasks, chunksize=4)


def save(path: Path, results: list[Answered]) -> None:
    """Writes beside, then renames."""
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(asdict(r)) + "\n" for r in results))
    os.replace(part, path)


def read(path: Path) -> list[Answered]:
    """What `save` wrote."""
    return [Answered(**_tuples(json.loads(line))) for line in path.read_text().splitlines()]


def _tuples(raw: dict[str, Any]) -> dict[str, Any]:
    raw["truth"] = [(label, tuple(box)) for label, box in raw["truth"]]
    raw["said"] = [(label, tuple(box), confidence) for label, box, confidence in raw["said"]]
    return raw
