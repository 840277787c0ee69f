"""A threshold-and-blob detector: the baseline that shows that the generated task is not trivial.

It gets what it can use without learning: the lung fields found by thresholding, the left-right and local differences
inside them, the heart's width, and the choice of the label from shape and place. No training, no knowledge of the seed.
"""

import numpy as np
import numpy.typing as npt
from scipy import ndimage  # type: ignore[import-untyped]  # scipy ships no types

from hilum_modelops.generator.labels import CARDIOMEGALY, CONSOLIDATION, EFFUSION, FRACTURE, NODULE, PNEUMOTHORAX
from hilum_modelops.generator.scene import Box

Plane = npt.NDArray[np.float32]


def _lungs(image: Plane) -> list[tuple[slice, slice]]:
    """Bounding slices of the two largest dark regions that do not touch the border, left one first."""
    body = image > 0.12
    if not body.any():
        return []
    dark = (ndimage.gaussian_filter(image, image.shape[1] / 60) < _otsu(image[body])) & body
    dark = ndimage.binary_opening(dark, iterations=max(1, image.shape[1] // 80))
    names, count = ndimage.label(dark)
    if count == 0:
        return []
    areas = ndimage.sum_labels(dark, names, range(1, count + 1))
    places = ndimage.find_objects(names)
    high, wide = image.shape
    inner = [
        i for i in np.argsort(-areas)
        if places[i][1].start > wide * 0.02 and places[i][1].stop < wide * 0.98 and areas[i] > 0.02 * high * wide
    ]  # fmt: skip
    return sorted((places[i] for i in inner[:2]), key=lambda s: s[1].start)


def _otsu(values: Plane) -> float:
    counts, edges = np.histogram(values, bins=128)
    middle = (edges[:-1] + edges[1:]) / 2
    weight = np.cumsum(counts)
    mean = np.cumsum(counts * middle)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = (mean[-1] * weight / weight[-1] - mean) ** 2 / (weight * (weight[-1] - weight))
    return float(middle[np.nanargmax(between[:-1])])


def _blobs(mask: npt.NDArray[np.bool_], low: float, high: float, top: int, left: int) -> list[Box]:
    names, _count = ndimage.label(mask)
    found = []
    for index, place in enumerate(ndimage.find_objects(names), start=1):
        area = float((names[place] == index).sum())
        if low <= area <= high:
            found.append((area, (float(place[1].start + left), float(place[0].start + top),
                                 float(place[1].stop + left), float(place[0].stop + top))))  # fmt: skip
    return [box for _, box in sorted(found, reverse=True)[:2]]


def detect(image: Plane) -> list[tuple[str, Box]]:
    """image: float (rows, cols), 0 to 1. Answers labels with boxes in pixels, at most two per label and lung."""
    lungs, found = _lungs(image), []
    high, wide = image.shape
    if len(lungs) == 2:
        found += _heart(image, lungs)
    for rows, cols in lungs:
        field = ndimage.gaussian_filter(image[rows, cols], wide / 150)
        around = ndimage.gaussian_filter(image[rows, cols], wide / 12)
        spread = float(np.std(field - around)) + 1e-3
        unit = float(high * wide)
        bright, dark = field - around > 1.2 * spread, field - around < -1.2 * spread
        for box in _blobs(bright, 0.002 * unit, 0.014 * unit, rows.start, cols.start):
            square = (box[2] - box[0]) / (box[3] - box[1])
            found.append((NODULE if 0.6 < square < 1.6 else FRACTURE, box))
        for box in _blobs(bright, 0.014 * unit, 0.1 * unit, rows.start, cols.start):
            low = (box[1] + box[3]) / 2 > rows.start + 0.75 * (rows.stop - rows.start)
            found.append((EFFUSION if low else CONSOLIDATION, box))
        for box in _blobs(dark, 0.01 * unit, 0.1 * unit, rows.start, cols.start):
            if box[1] < rows.start + 0.3 * (rows.stop - rows.start):
                found.append((PNEUMOTHORAX, box))
    if len(lungs) == 2:
        found += _short_lung(lungs)
    return found


def _heart(image: Plane, lungs: list[tuple[slice, slice]]) -> list[tuple[str, Box]]:
    """The bright region between the lungs at its widest, if it is more than half the thorax."""
    left, right = lungs
    top = max(left[0].start, right[0].start)
    bottom = max(left[0].stop, right[0].stop)
    span = right[1].stop - left[1].start
    level = _otsu(image[top:bottom, left[1].start : right[1].stop])
    smooth = ndimage.gaussian_filter(image, image.shape[1] / 50) > level
    widest = (0, 0, 0, 0)
    for row in range((top + bottom) // 2, bottom - (bottom - top) // 8):
        names, _ = ndimage.label(smooth[row, left[1].start : right[1].stop])
        middle = names[span // 2]
        if middle:
            columns = np.flatnonzero(names == middle)
            if len(columns) > widest[0] and len(columns) < 0.9 * span:
                widest = (len(columns), row, int(columns[0]), int(columns[-1]))
    if widest[0] < 0.52 * span:
        return []
    half = widest[0] * 0.40
    box = (float(left[1].start + widest[2]), widest[1] - half, float(left[1].start + widest[3]), widest[1] + half)
    return [(CARDIOMEGALY, box)]


def _short_lung(lungs: list[tuple[slice, slice]]) -> list[tuple[str, Box]]:
    """Fluid: one lung's dark field ends well above the other's."""
    left, right = lungs
    gap = left[0].stop - right[0].stop
    if abs(gap) < 0.10 * (left[0].stop - left[0].start):
        return []
    short, tall = (right, left) if gap > 0 else (left, right)
    return [(EFFUSION, (float(short[1].start), float(short[0].stop - abs(gap) * 0.3), float(short[1].stop),
                        float(tall[0].stop)))]  # fmt: skip
