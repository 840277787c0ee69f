"""From stored values to grey: modality LUT, VOI LUT or window, polarity (PS3.3 C.11.1, C.11.2; PS3.4 N.2).

A frame of at most 16 bits is mapped by one table of every possible value, built here in float64; nothing is computed
per pixel. Frames of 32 bits or of floats go through the same functions value by value.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hilum.adapters.dicom.elements import Elements
from hilum.domain.errors import Reject

Values: TypeAlias = NDArray[np.float64]
PERCENTILES = (0.5, 99.5)
"""Of the frame's own values: the window of an image that has none."""


class Function(StrEnum):
    """VOI LUT Function (0028,1056)."""

    LINEAR = "LINEAR"
    LINEAR_EXACT = "LINEAR_EXACT"
    SIGMOID = "SIGMOID"


@dataclass(frozen=True, slots=True)
class Window:
    """Centre and width in modality units; width > 0, and at least 1 for LINEAR."""

    centre: float
    width: float
    function: Function = Function.LINEAR

    def apply(self, values: Values) -> Values:
        """Values in modality units to 0..1 (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
        if self.function is Function.SIGMOID:
            exponent = np.clip(-4.0 * (values - self.centre) / self.width, -700.0, 700.0)
            return np.asarray(1.0 / (1.0 + np.exp(exponent)))
        if self.function is Function.LINEAR_EXACT:
            return np.asarray(np.clip((values - self.centre) / self.width + 0.5, 0.0, 1.0))
        if self.width == 1:
            return np.asarray(values > self.centre - 0.5, np.float64)
        return np.asarray(np.clip((values - (self.centre - 0.5)) / (self.width - 1.0) + 0.5, 0.0, 1.0))


@dataclass(frozen=True, slots=True, eq=False)
class Lut:
    """A lookup table (PS3.3 C.11.1.1): `data[0]` is for the value `first` and everything below; uint16 (N,)."""

    data: NDArray[np.uint16]
    first: int
    bits: int

    def apply(self, values: Values) -> Values:
        index = np.clip(np.rint(values) - self.first, 0, len(self.data) - 1).astype(np.int64)
        return np.asarray(self.data[index], np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Grayscale:
    """The transformation of one frame.

    Attributes:
        lowest, highest: the stored values that become black and white when there is neither window nor VOI LUT.
        invert: True for MONOCHROME1, where the lowest value is white.
    """

    slope: float
    intercept: float
    modality_lut: Lut | None
    voi: Window | Lut | None
    lowest: float
    highest: float
    invert: bool

    def modality(self, stored: Values) -> Values:
        if self.modality_lut is not None:
            return self.modality_lut.apply(stored)
        return np.asarray(stored * self.slope + self.intercept)

    def render(self, stored: Values) -> NDArray[np.uint8]:
        """Stored values of any shape to grey, 0 black and 255 white, same shape."""
        match self.voi:
            case Window() as window:
                shade = window.apply(self.modality(stored))
            case Lut() as lut:
                shade = np.clip(lut.apply(self.modality(stored)) / ((1 << lut.bits) - 1), 0.0, 1.0)
            case None:
                shade = np.clip((stored - self.lowest) / (self.highest - self.lowest), 0.0, 1.0)
        if self.invert:
            shade = 1.0 - shade
        return np.asarray(shade * 255.0 + 0.5).astype(np.uint8)


def grayscale_of(places: Sequence[Elements], *, bits_stored: int, signed: bool, invert: bool) -> Grayscale:
    """The transformation that the attributes ask for.

    Args:
        places: where the attributes may stand, most specific first (functional groups of the frame, shared ones, the
            dataset itself).
        bits_stored: 1 to 32.
    """
    slope, intercept = _rescale(places)
    modality_lut = _lut(places, 0x00283000, signed_first=signed)
    # A VOI LUT's first value is signed when what the modality LUT gives can be negative (PS3.3 C.11.2.1.1).
    negative = modality_lut is None and (signed or intercept < 0)
    voi = _lut(places, 0x00283010, signed_first=negative) or _window(places)
    lowest = -float(1 << (bits_stored - 1)) if signed else 0.0
    return Grayscale(slope, intercept, modality_lut, voi, lowest, lowest + (1 << bits_stored) - 1, invert)


def percentile_window(values: Values, counts: NDArray[np.int64]) -> Window | None:
    """A window over the bulk of the frame: `counts[i]` pixels have `values[i]` (modality units, (N,) both)."""
    present = counts > 0
    if not present.any():
        return None
    values, counts = values[present], counts[present]
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(counts[order])
    places = np.searchsorted(cumulative, np.asarray(PERCENTILES) / 100.0 * cumulative[-1])
    low, high = values[order][np.minimum(places, len(values) - 1)]
    width = float(high - low)
    return Window(float(low + high) / 2, width if width > 0 else 1.0, Function.LINEAR_EXACT)


def _rescale(places: Sequence[Elements]) -> tuple[float, float]:
    for place in places:
        slope, intercept = place.decimals(0x00281053), place.decimals(0x00281052)
        if slope or intercept:
            # A slope of zero would make every image flat; it is an error of the sender.
            return (slope[0] if slope and slope[0] != 0 else 1.0), (intercept[0] if intercept else 0.0)
    return 1.0, 0.0


def _window(places: Sequence[Elements]) -> Window | None:
    """The first of the windows that the image offers."""
    for place in places:
        centres, widths = place.decimals(0x00281050), place.decimals(0x00281051)
        if not centres or not widths:
            continue
        name = place.ascii(0x00281056).upper()
        function = Function(name) if name in set(Function) else Function.LINEAR
        if widths[0] >= 1 or (widths[0] > 0 and function is not Function.LINEAR):  # PS3.3 C.11.2.1.2.1
            return Window(centres[0], widths[0], function)
    return None


def _lut(places: Sequence[Elements], tag: int, *, signed_first: bool) -> Lut | None:
    """The first item of a LUT sequence.

    Raises:
        Reject: the sequence has an item that describes no table.
    """
    item = next((item for place in places if (item := place.item(tag)) is not None), None)
    if item is None:
        return None
    descriptor = item.shorts(0x00283002)
    if len(descriptor) != 3 or not 1 <= descriptor[2] <= 16:
        raise Reject("a lookup table's descriptor is malformed")
    entries = descriptor[0] or 1 << 16  # PS3.3 C.11.1.1: 0 means 65536
    first = descriptor[1] - (1 << 16) if signed_first and descriptor[1] >= 1 << 15 else descriptor[1]
    raw = item.raw(0x00283006, limit=1 << 18)
    if len(raw) in (entries, entries + 1) and descriptor[2] <= 8 and entries > 1:  # bytes, packed
        data = np.frombuffer(raw, np.uint8)[:entries].astype(np.uint16)
    else:
        data = np.asarray(item.shorts(0x00283006), np.uint16)[:entries]
    if len(data) < entries:
        raise Reject("a lookup table is shorter than its descriptor says")
    bits = max(descriptor[2], int(data.max()).bit_length())  # senders that state 8 and store 12 exist
    return Lut(data, first, bits)
