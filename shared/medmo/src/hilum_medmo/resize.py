"""Bicubic resizing of 8-bit images with antialiasing, bit for bit as torchvision does it for transformers.

Pillow's filter is the same one, but torch rounds its weights to 16 bits, and on noisy images the two end up to two grey
levels apart; a vision encoder then sees other pixels than it was trained on. Weights and sums are whole numbers here,
as there, so the results are equal, not close. Source: PyTorch 2.15, UpSampleKernel.cpp
(`_compute_index_ranges_int16_weights`, `upsample_avx_bilinear_bicubic_uint8`); filter: Keys 1981, a = -0.5.

Each pass is a product with a banded matrix, taken block by block of the output so that BLAS does the work; float64
holds every sum exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SUPPORT = 2.0  # a cubic reaches two pixels to each side
_BLOCK = 16  # output places a matrix product
_PRODUCT = 1 << 18  # multiplications a matrix product: up to here OpenBLAS stays on this thread, in the cache


@dataclass(frozen=True, slots=True)
class _Axis:
    """Weights along one axis: output i mixes inputs start[i] … start[i] + size[i], in units of 2**-bits."""

    start: NDArray[np.int64]
    size: NDArray[np.int64]
    weights: NDArray[np.float64]
    bits: int


def resize(image: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    """Resize uint8 (rows, cols, channels) to `rows` x `columns`; pixel centres at (i + 0.5) / size, edges clipped."""
    if image.shape[:2] == (rows, columns):
        return image
    if image.shape[2] == 3 and (image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all():
        return np.repeat(resize(image[..., :1], rows, columns), 3, axis=2)  # radiographs: a third of the work
    if columns != image.shape[1]:
        turned = np.ascontiguousarray(image.transpose(1, 0, 2)).reshape(image.shape[1], -1)
        across = _along_first(turned, _axis(image.shape[1], columns))
        image = across.reshape(columns, image.shape[0], -1).transpose(1, 0, 2)
    if rows != image.shape[0]:
        down = _along_first(np.ascontiguousarray(image).reshape(image.shape[0], -1), _axis(image.shape[0], rows))
        image = down.reshape(rows, image.shape[1], -1)
    return np.ascontiguousarray(image)


def _along_first(values: NDArray[np.uint8], axis: _Axis) -> NDArray[np.uint8]:
    """Filter uint8 (n, others) along its first axis."""
    out = np.empty((len(axis.start), values.shape[1]), np.uint8)
    half = float(1 << (axis.bits - 1))
    for first in range(0, len(out), _BLOCK):
        last = min(first + _BLOCK, len(out))
        low = int(axis.start[first:last].min())
        high = int((axis.start[first:last] + axis.size[first:last]).max())
        matrix = np.zeros((last - first, high - low))
        for row in range(first, last):
            at, count = axis.start[row] - low, axis.size[row]
            matrix[row - first, at : at + count] = axis.weights[row, :count]
        step = max(1, _PRODUCT // (_BLOCK * (high - low)))
        for left in range(0, values.shape[1], step):
            sums = matrix @ values[low:high, left : left + step].astype(np.float64) + half
            levels = np.floor(np.ldexp(sums, -axis.bits, out=sums), out=sums)
            out[first:last, left : left + step] = np.clip(levels, 0, 255, out=levels)
    return out


def _axis(old: int, new: int) -> _Axis:
    scale = old / new
    support = _SUPPORT * max(scale, 1.0)
    centre = scale * (np.arange(new) + 0.5)
    start = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    size = np.minimum((centre + support + 0.5).astype(np.int64), old) - start
    places = np.arange(int(size.max()))
    distance = np.abs(places + start[:, None] - centre[:, None] + 0.5) / max(scale, 1.0)
    weights = np.where(places < size[:, None], _cubic(distance), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    bits = 0
    while bits < 22 and int(0.5 + weights.max() * (1 << (bits + 1))) < 1 << 15:
        bits += 1
    scaled = weights * (1 << bits)
    return _Axis(start, size, np.trunc(scaled + np.copysign(0.5, scaled)), bits)


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    a = -0.5
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * a
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
