"""Generated radiographs: deterministic, boxes where they belong, every label and variant."""

import subprocess
import sys

import numpy as np
import pytest

from hilum_modelops.generator import LABELS, VARIANTS, FindingSpec, draw_shape, render
from hilum_modelops.generator.labels import CARDIOMEGALY, FRACTURE, NODULE


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_a_seed_gives_the_same_image_each_time_and_another_seed_another(variant: str) -> None:
    first, again, other = (render(seed, variant=variant, rows=160, cols=140) for seed in (5, 5, 6))
    assert np.array_equal(first.pixels, again.pixels)
    assert first.findings == again.findings
    assert not np.array_equal(first.pixels, other.pixels)


@pytest.mark.parametrize("variant", sorted(VARIANTS))
@pytest.mark.parametrize("shape", [(160, 160), (200, 150), (150, 200)])
def test_every_box_lies_inside_the_image_and_every_label_is_on_the_list(variant: str, shape: tuple[int, int]) -> None:
    rows, cols = shape
    for seed in range(25):
        film = render(seed, variant=variant, rows=rows, cols=cols)
        assert film.pixels.shape == shape
        assert film.pixels.dtype == np.float32
        assert film.pixels.min() >= 0
        assert film.pixels.max() <= 1
        for finding in film.findings:
            x1, y1, x2, y2 = finding.box
            assert finding.label in LABELS
            assert 0 <= x1 < x2 <= cols
            assert 0 <= y1 < y2 <= rows


@pytest.mark.parametrize("label", LABELS)
def test_a_forced_finding_is_drawn_on_the_side_asked_for(label: str) -> None:
    film = render(3, rows=256, cols=256, findings=[FindingSpec(label, -1, 0.8, 0.8)])
    assert [f.label for f in film.findings] == [label]
    if label != CARDIOMEGALY:
        assert film.findings[0].side == "right"  # image left is the patient's right
        assert film.findings[0].box[0] < 128


def test_forcing_no_finding_gives_a_normal_chest() -> None:
    assert render(3, rows=128, cols=128, findings=()).findings == ()


def test_a_finding_is_at_the_same_place_at_every_resolution() -> None:
    spec = [FindingSpec(NODULE, 1, 0.5, 0.5)]
    small, large = (render(11, rows=side, cols=side, findings=spec).findings[0].box for side in (200, 800))
    assert np.allclose(np.array(small) * 4, large, atol=5)


def test_about_a_third_is_normal_and_all_labels_occur() -> None:
    films = [render(seed, rows=96, cols=96) for seed in range(150)]
    normal = sum(not film.findings for film in films) / len(films)
    assert 0.2 < normal < 0.45
    assert {f.label for film in films for f in film.findings} == set(LABELS)
    assert max(len(film.findings) for film in films) <= 3


def test_small_findings_are_not_smaller_than_six_percent_of_the_width() -> None:
    for label in (NODULE, FRACTURE):
        box = render(9, rows=400, cols=400, findings=[FindingSpec(label, 1, 0.0, 0.0)]).findings[0].box
        assert box[2] - box[0] >= 0.06 * 400


def test_shapes_are_square_portrait_and_landscape() -> None:
    shapes = [draw_shape(seed, 500) for seed in range(60)]
    assert {(rows > cols) - (rows < cols) for rows, cols in shapes} == {-1, 0, 1}


def test_the_generator_never_loads_torch() -> None:
    program = "import sys, hilum_modelops.__main__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
