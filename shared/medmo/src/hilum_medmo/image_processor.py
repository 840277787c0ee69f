"""From an 8-bit RGB image to the patches Qwen3-VL's vision encoder reads.

Source: transformers 5.24 `image_processing_qwen2_vl.py` (Qwen3-VL uses Qwen2-VL's processor), on torchvision as it runs
by default; every grey level is the same (see `resize.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hilum_medmo.config import VisionConfig, read_json
from hilum_medmo.errors import CheckpointError, RequestError
from hilum_medmo.resize import resize

_MAX_ASPECT = 200  # the limit of transformers' smart_resize
_QWEN3_VL_PIXELS = (65_536, 16_777_216)  # preprocessor_config.json of the published Qwen3-VL weights
_CLASS_PIXELS = (56 * 56, 28 * 28 * 1280)  # what transformers assumes if that file names no limits
_BICUBIC = 3  # PIL's number for it, as preprocessor_config.json has it


@dataclass(frozen=True, slots=True)
class Grid:
    """Size of an image in patches (one frame). `rows` and `columns` are multiples of the merge size."""

    rows: int
    columns: int

    @property
    def patches(self) -> int:
        """Patches in the image."""
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class ImageProcessor:
    """Resizes, normalises and cuts images as the checkpoint's preprocessor_config.json says.

    `min_pixels` and `max_pixels` bound rows · columns after resizing; `mean` and `std` are per channel on 0 to 1.
    """

    patch: int
    merge: int
    temporal_patch: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def grid(self, rows: int, columns: int) -> Grid:
        """The grid that an image of this size (pixels) is resized to; RequestError if it is too narrow."""
        new_rows, new_columns = smart_resize(rows, columns, self.patch * self.merge, self.min_pixels, self.max_pixels)
        return Grid(new_rows // self.patch, new_columns // self.patch)

    def patches(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], Grid]:
        """Patches of one image.

        Args:
            image: uint8 (rows, cols, 3), RGB, origin top left.

        Returns:
            float32 (patches, channels · temporal_patch · patch²), each row ordered channel, time, y, x; the rows
            ordered by merge block, row by row, and within a block row by row. And the grid they fill.

        Raises:
            RequestError: another dtype or shape, an empty image, or one more than 200 times as long as wide.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise RequestError(f"an image is uint8 (rows, cols, 3), not {image.dtype} {image.shape}")
        grid = self.grid(image.shape[0], image.shape[1])
        image = resize(image, grid.rows * self.patch, grid.columns * self.patch)
        return self._cut(self._normalise(image), grid), grid

    def _normalise(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(rows, cols, 3) grey levels to (3, rows, cols) by table: 256 divisions a channel instead of one a pixel."""
        levels = np.arange(256, dtype=np.float32)
        planes = np.empty((3, *image.shape[:2]), np.float32)
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            table = (levels - np.float32(mean * 255)) / np.float32(std * 255)
            planes[channel] = table[image[:, :, channel]]
        return planes

    def _cut(self, planes: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
        merge, patch = self.merge, self.patch
        blocks = planes.reshape(3, grid.rows // merge, merge, patch, grid.columns // merge, merge, patch)
        blocks = blocks.transpose(1, 4, 2, 5, 0, 3, 6)  # block row, block column, row, column, channel, y, x
        still = np.broadcast_to(  # a still image is every frame of its temporal patch
            blocks[:, :, :, :, :, None], (*blocks.shape[:5], self.temporal_patch, *blocks.shape[5:])
        )
        return still.reshape(grid.patches, -1)


def smart_resize(rows: int, columns: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The size (rows, columns) nearest to the image's whose sides are multiples of `factor` and whose area is allowed.

    Raises:
        RequestError: one side is more than 200 times the other.
    """
    if max(rows, columns) > _MAX_ASPECT * min(rows, columns):
        raise RequestError(f"an image of {rows} x {columns} pixels is too narrow")
    # Python's round, half to even, is what transformers uses; another rounding gives another grid.
    new_rows, new_columns = round(rows / factor) * factor, round(columns / factor) * factor
    if new_rows * new_columns > max_pixels:
        shrink = math.sqrt(rows * columns / max_pixels)
        new_rows = max(factor, math.floor(rows / shrink / factor) * factor)
        new_columns = max(factor, math.floor(columns / shrink / factor) * factor)
    elif new_rows * new_columns < min_pixels:
        grow = math.sqrt(min_pixels / (rows * columns))
        new_rows = math.ceil(rows * grow / factor) * factor
        new_columns = math.ceil(columns * grow / factor) * factor
    return new_rows, new_columns


def read_image_processor(checkpoint: Path, vision: VisionConfig) -> ImageProcessor:
    """Read preprocessor_config.json (or the newer processor_config.json); Qwen3-VL's own values if neither is there.

    Raises:
        CheckpointError: it asks for something this processor does not do, or contradicts config.json.
    """
    raw = _raw(checkpoint)
    if raw is None:
        raw = {"min_pixels": _QWEN3_VL_PIXELS[0], "max_pixels": _QWEN3_VL_PIXELS[1]}
    size = raw.get("size") or {}
    try:
        processor = ImageProcessor(
            patch=int(raw.get("patch_size", vision.patch)),
            merge=int(raw.get("merge_size", vision.merge)),
            temporal_patch=int(raw.get("temporal_patch_size", vision.temporal_patch)),
            min_pixels=int(raw.get("min_pixels") or size.get("shortest_edge") or _CLASS_PIXELS[0]),
            max_pixels=int(raw.get("max_pixels") or size.get("longest_edge") or _CLASS_PIXELS[1]),
            mean=_channels(raw.get("image_mean", 0.5)),
            std=_channels(raw.get("image_std", 0.5)),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{checkpoint}: image processor: {error}") from error
    steps = all(raw.get(step) is not False for step in ("do_resize", "do_rescale", "do_normalize"))
    scale = abs(float(raw.get("rescale_factor", 1 / 255)) * 255 - 1) < 1e-4
    if not steps or not scale or raw.get("resample", _BICUBIC) not in (_BICUBIC, None):
        raise CheckpointError(f"{checkpoint}: this image processor always resizes (bicubic), rescales and normalises")
    same = (processor.patch, processor.merge, processor.temporal_patch)
    if same != (vision.patch, vision.merge, vision.temporal_patch) or vision.channels != 3:
        raise CheckpointError(f"{checkpoint}: the image processor's patches are not the ones config.json has")
    return processor


def _raw(checkpoint: Path) -> dict[str, Any] | None:
    old, new = checkpoint / "preprocessor_config.json", checkpoint / "processor_config.json"
    if old.exists():
        return read_json(old)
    image = read_json(new).get("image_processor") if new.exists() else None
    return image if isinstance(image, dict) else None


def _channels(value: float | Sequence[float]) -> tuple[float, float, float]:
    r, g, b = (float(v) for v in value) if isinstance(value, (list, tuple)) else (float(value),) * 3  # type: ignore[arg-type]
    return r, g, b
