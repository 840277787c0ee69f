"""Where tokens are: all that depends on an image's grid, computed once per request in numpy and fed to the graphs.

Sources: transformers 5.24 `vision_utils.py` and `modeling_qwen3_vl.py` (`get_rope_index`, the vision rotary embedding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hilum_medmo.config import VisionConfig
from hilum_medmo.errors import RequestError
from hilum_medmo.image_processor import Grid


@dataclass(frozen=True, slots=True)
class PatchPositions:
    """Inputs of the vision graph beside the pixels; N patches in merge-block order.

    Attributes:
        indices: int64 (N, 4), rows of the learned position table, flattened.
        weights: float32 (N, 4), bilinear weights of those rows; each row sums to 1.
        cos, sin: float32 (N, head_dim), the 2-D rotary embedding.
    """

    indices: NDArray[np.int64]
    weights: NDArray[np.float32]
    cos: NDArray[np.float32]
    sin: NDArray[np.float32]


def patch_positions(grid: Grid, vision: VisionConfig) -> PatchPositions:
    """Position table taps and rotary embedding of one image."""
    rows, columns = _coordinates(grid, vision.merge)
    side = vision.positions_per_side
    row_taps, row_weights = _taps(rows, grid.rows, side)
    column_taps, column_weights = _taps(columns, grid.columns, side)
    indices = (row_taps[:, :, None] * side + column_taps[:, None, :]).reshape(-1, 4)
    weights = (row_weights[:, :, None] * column_weights[:, None, :]).reshape(-1, 4)
    half = vision.head_dim // 2
    frequencies = 1.0 / np.float32(vision.rope_theta) ** (np.arange(0, half, 2, dtype=np.float32) / half)
    angles = np.concatenate(
        [axis[:, None].astype(np.float32) * frequencies for axis in (rows, columns, rows, columns)], axis=1
    ).astype(np.float32)
    return PatchPositions(indices, weights, np.cos(angles), np.sin(angles))


def _coordinates(grid: Grid, merge: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of each patch, in merge-block order."""
    shape = (grid.rows // merge, merge, grid.columns // merge, merge)
    rows, columns = np.indices((grid.rows, grid.columns), dtype=np.int64)
    return rows.reshape(shape).swapaxes(1, 2).ravel(), columns.reshape(shape).swapaxes(1, 2).ravel()


def _taps(index: NDArray[np.int64], size: int, side: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Bilinear taps of a table of `side` entries stretched corner to corner over `size` places."""
    source = index.astype(np.float32) * np.float32(side - 1) / np.float32(max(size - 1, 1))
    floor = np.floor(source)
    taps = floor.astype(np.int64)[:, None] + np.arange(2)
    distance = np.abs(source[:, None] - floor[:, None] - np.arange(2, dtype=np.float32))
    return np.minimum(taps, side - 1), np.maximum(1 - distance, 0).astype(np.float32)


@dataclass(frozen=True, slots=True)
class PromptLayout:
    """A prompt of S tokens with its images laid out.

    Attributes:
        positions: int64 (3, 1, S), M-RoPE positions: time, height, width.
        image_index: int64 (1, S), 0 for text, else 1 + index of the image token among all images of the request.
        next_position: position of the first generated token on all three axes; `next_position - S` is what
            transformers calls the rope delta.
    """

    positions: NDArray[np.int64]
    image_index: NDArray[np.int64]
    next_position: int


def lay_out(ids: NDArray[np.int64], grids: Sequence[Grid], image_token: int, merge: int) -> PromptLayout:
    """Position every token of a prompt whose image placeholders are already expanded.

    Args:
        ids: int64 (S,), with grid.patches / merge² image tokens in a row for each image, in order.
        grids: the images' grids.

    Raises:
        RequestError: the placeholders do not match the images.
    """
    is_image = ids == image_token
    wanted = [grid.patches // merge**2 for grid in grids]
    if int(is_image.sum()) != sum(wanted):
        raise RequestError(f"{int(is_image.sum())} image tokens in the prompt for {sum(wanted)} of the images")
    positions = np.empty((3, len(ids)), np.int64)
    at = start = 0
    images = iter(zip(grids, wanted, strict=True))
    while at < len(ids):
        if not is_image[at]:
            positions[:, at] = start
            at, start = at + 1, start + 1
            continue
        grid, count = next(images)
        if not is_image[at : at + count].all():
            raise RequestError("an image's tokens in the prompt are not in one run")
        rows, columns = grid.rows // merge, grid.columns // merge
        positions[0, at : at + count] = start
        positions[1:, at : at + count] = start + np.indices((rows, columns)).reshape(2, -1)
        at, start = at + count, start + max(rows, columns)
    index = np.where(is_image, np.cumsum(is_image), 0).astype(np.int64)
    return PromptLayout(positions[:, None], index[None], start)
