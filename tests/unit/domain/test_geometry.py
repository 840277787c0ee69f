"""Boxes: what is a box, and that grid and pixels agree."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilum.domain.errors import Reject
from hilum.domain.geometry import GridBox, PixelBox, iou, to_grid, to_pixels

sizes = st.integers(1, 20_000)


@st.composite
def grid_boxes(draw: st.DrawFn) -> GridBox:
    x1, y1 = draw(st.integers(0, 999)), draw(st.integers(0, 999))
    return GridBox(x1, y1, draw(st.integers(x1 + 1, 1000)), draw(st.integers(y1 + 1, 1000)))


@given(grid_boxes(), sizes, sizes)
def test_a_grid_box_lies_inside_the_image_and_comes_back_from_pixels(box: GridBox, rows: int, columns: int) -> None:
    pixels = to_pixels(box, rows=rows, columns=columns)
    assert pixels.is_inside(rows=rows, columns=columns)
    assert to_grid(pixels, rows=rows, columns=columns) == box


@pytest.mark.parametrize("corners", [(5, 5, 5, 9), (9, 5, 5, 9), (-1, 0, 5, 5), (0, 0, 1001, 5)])
def test_an_empty_or_outside_grid_box_is_rejected(corners: tuple[int, int, int, int]) -> None:
    with pytest.raises(Reject, match="empty or outside"):
        GridBox(*corners)


@pytest.mark.parametrize("corners", [(math.nan, 0, 1, 1), (0, 0, math.inf, 1), (-0.1, 0, 1, 1), (1, 1, 1, 2)])
def test_a_pixel_box_that_is_no_box_is_rejected(corners: tuple[float, float, float, float]) -> None:
    with pytest.raises(Reject):
        PixelBox(*corners)


def test_the_whole_grid_is_the_whole_image() -> None:
    assert to_pixels(GridBox(0, 0, 1000, 1000), rows=2500, columns=2048) == PixelBox(0, 0, 2048, 2500)


@given(grid_boxes(), grid_boxes())
def test_overlap_is_symmetric_between_zero_and_one(a: GridBox, b: GridBox) -> None:
    first, second = (to_pixels(box, rows=1000, columns=1000) for box in (a, b))
    assert iou(first, second) == pytest.approx(iou(second, first))
    assert 0 <= iou(first, second) <= 1
    assert iou(first, first) == pytest.approx(1)
