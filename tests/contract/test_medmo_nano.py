"""MedMO-Nano as shipped: what the runtime says is what transformers says.

tests/golden/medmo/nano.npz was made by `shared/medmo/tools/make_golden.py --nano`; it belongs to one weights digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hilum_medmo.engine import OnnxMedMO, load
from hilum_medmo.testing.cases import NANO_ANSWERS, NANO_LOGITS, nano_request

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "shared" / "medmo" / "checkpoints" / "medmo-nano"
GOLDEN = ROOT / "tests" / "golden" / "medmo" / "nano.npz"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def golden() -> Mapping[str, NDArray[Any]]:
    with np.load(GOLDEN) as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def nano() -> OnnxMedMO:
    return load(CHECKPOINT, threads=1)


def test_the_golden_answers_are_of_these_weights(golden: Mapping[str, NDArray[Any]], nano: OnnxMedMO) -> None:
    assert str(golden["digest"]) == nano.identity.digest, "new weights: run shared/medmo/tools/make_golden.py --nano"


def test_nano_says_that_it_is_a_simulators_model(nano: OnnxMedMO) -> None:
    assert nano.identity.name == "MedMO-Nano"
    assert nano.identity.simulation
    assert "not for patients" in nano.identity.disclaimer
    assert set(nano.identity.thresholds) == set(nano.identity.labels)


def test_a_hundred_greedy_answers_are_those_of_transformers(
    golden: Mapping[str, NDArray[Any]], nano: OnnxMedMO
) -> None:
    for number in range(NANO_ANSWERS):
        said = [token.id for token in nano.generate(nano_request(number)).tokens]
        expected = golden["answers"][number]
        assert said == expected[expected >= 0].tolist(), f"request {number}"


def test_logits_before_the_first_token_are_those_of_transformers(
    golden: Mapping[str, NDArray[Any]], nano: OnnxMedMO
) -> None:
    for number, expected in zip(NANO_LOGITS, golden["logits"], strict=True):
        assert np.abs(nano.prompt_logits(nano_request(number))[-1] - expected).max() < 1e-3
