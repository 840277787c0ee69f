"""What hilum_medmo computes is what transformers computes.

tests/golden/medmo was made by shared/medmo/tools/make_golden.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hilum_medmo.chat import Chat
from hilum_medmo.config import read_config
from hilum_medmo.engine import OnnxMedMO, load
from hilum_medmo.image_processor import ImageProcessor, read_image_processor, smart_resize
from hilum_medmo.positions import lay_out
from hilum_medmo.testing.cases import (
    CASES,
    PROCESSOR_PIXELS,
    PROCESSOR_SIZES,
    Case,
    grid_sizes,
    logit_rows,
    noise_image,
)
from hilum_medmo.testing.random_checkpoint import write_random_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden" / "medmo"
REQUESTS = [
    pytest.param(case, number, id=f"{case.name}-{number}") for case in CASES for number in range(len(case.requests))
]
Golden = Mapping[str, NDArray[Any]]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {case.name: tmp_path_factory.mktemp(case.name) for case in CASES}
    for case in CASES:
        write_random_checkpoint(folders[case.name], case.geometry, case.seed)
    return folders


@pytest.fixture(scope="module")
def models(checkpoints: dict[str, Path]) -> dict[str, OnnxMedMO]:
    return {name: load(folder, threads=1) for name, folder in checkpoints.items()}


def golden(name: str) -> Golden:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.mark.parametrize(("case", "number"), REQUESTS)
def test_prompts_become_the_token_ids_and_positions_of_transformers(
    checkpoints: dict[str, Path], case: Case, number: int
) -> None:
    checkpoint = checkpoints[case.name]
    config = read_config(checkpoint)
    processor = read_image_processor(checkpoint, config.vision)
    grids = [processor.grid(*size) for size in case.requests[number]]
    ids = Chat(checkpoint, config).encode(case.request(number), grids)
    expected = golden(case.name)
    assert ids.tolist() == expected[f"{number}.ids"].tolist()
    layout = lay_out(ids, grids, config.image_token, config.vision.merge)
    assert layout.positions[:, 0].tolist() == expected[f"{number}.positions"].tolist()
    assert layout.next_position == expected[f"{number}.positions"].max() + 1


@pytest.mark.parametrize(("case", "number"), REQUESTS)
def test_logits_are_those_of_transformers(models: dict[str, OnnxMedMO], case: Case, number: int) -> None:
    logits = models[case.name].prompt_logits(case.request(number))
    expected = golden(case.name)[f"{number}.logits"]
    # The requirement is 1e-3; graphs that are right differ by 2e-5, and a bound with no room would hide nothing.
    assert np.abs(logits[logit_rows(len(logits))] - expected).max() < 1e-4


@pytest.mark.parametrize(("case", "number"), REQUESTS)
def test_greedy_answers_and_their_probabilities_are_those_of_transformers(
    models: dict[str, OnnxMedMO], case: Case, number: int
) -> None:
    generation = models[case.name].generate(case.request(number))
    expected = golden(case.name)
    assert [token.id for token in generation.tokens] == expected[f"{number}.answer"].tolist()
    said = [token.probability for token in generation.tokens]
    assert said == pytest.approx(expected[f"{number}.probabilities"].tolist(), abs=1e-5)


def test_pixels_are_those_of_transformers() -> None:
    expected = golden("processor")
    processor = ImageProcessor(16, 2, 2, *PROCESSOR_PIXELS, (0.5,) * 3, (0.5,) * 3)
    for number, size in enumerate(PROCESSOR_SIZES):
        pixels, grid = processor.patches(noise_image(number, size))
        assert [1, grid.rows, grid.columns] == expected[f"{number}.grid"].tolist(), size
        frames = pixels.reshape(len(pixels), 3, 2, -1)
        assert (frames[:, :, 0] == frames[:, :, 1]).all()
        levels = (frames[:, :, 0] * 0.5 + 0.5) * 255
        assert np.abs(levels - expected[f"{number}.levels"]).max() < 1e-3, size


@pytest.mark.parametrize(("name", "limits"), [("small", PROCESSOR_PIXELS), ("qwen", (65_536, 16_777_216))])
def test_two_hundred_odd_sizes_are_resized_as_by_transformers(name: str, limits: tuple[int, int]) -> None:
    resized = [smart_resize(*size, 32, *limits) for size in grid_sizes()]
    assert np.array(resized).tolist() == golden("processor")[f"sizes.{name}"].tolist()


def test_every_deepstack_level_reaches_the_logits(tmp_path: Path) -> None:
    """Export tools drop DeepStack in silence; here each merger's last weights are taken away and must be missed."""
    case = next(case for case in CASES if case.name == "every-head-its-own-mergers-out-of-order")
    write_random_checkpoint(tmp_path, case.geometry, case.seed)
    whole = load(tmp_path, threads=1).prompt_logits(case.request(1))
    weights = (tmp_path / "model.safetensors").read_bytes()
    for merger in range(len(case.geometry.deepstack_layers)):
        (tmp_path / "model.safetensors").write_bytes(_without(weights, f"deepstack_merger_list.{merger}.linear_fc2"))
        crippled = load(tmp_path, threads=1).prompt_logits(case.request(1))
        assert np.abs(crippled - whole).max() > 0.05, f"level {merger} has no effect"


def _without(file: bytes, name: str) -> bytes:
    """A safetensors file with every tensor whose name contains `name` zeroed."""
    length = int.from_bytes(file[:8], "little")
    data = bytearray(file)
    for tensor, entry in json.loads(file[8 : 8 + length]).items():
        if name in tensor:
            start, end = entry["data_offsets"]
            assert end - start == 2 * math.prod(entry["shape"])
            data[8 + length + start : 8 + length + end] = bytes(end - start)
    return bytes(data)
