"""One frame of a stored instance as 8-bit RGB, for the model and for the viewer.

Only the frame that is asked for is read and decoded, and what it claims to be is checked before memory is taken.
"""

import io
import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import UID

from hilum.adapters.dicom import extended_jpeg
from hilum.adapters.dicom.codestream import claimed_size
from hilum.adapters.dicom.elements import Element, Elements, File, opened
from hilum.adapters.dicom.grayscale import Grayscale, grayscale_of, percentile_window
from hilum.adapters.dicom.precheck import check_claims
from hilum.domain.errors import Reject

Rgb = NDArray[np.uint8]
_SAMPLE_STEP = 4  # every fourth row and column is enough to find a window

# The fastest decoder of a syntax first (measured; see docs/architecture.md), then whatever else can read it.
_PREFERRED = {
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "gdcm",
    "1.2.840.10008.1.2.4.91": "gdcm",
    "1.2.840.10008.1.2.5": "pylibjpeg",
}
_KEYWORDS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
_PALETTE = (0x00281101, 0x00281102, 0x00281103, 0x00281201, 0x00281202, 0x00281203, 0x00281221, 0x00281222, 0x00281223)


@dataclass(frozen=True, slots=True)
class _Description:
    """The Image Pixel module (PS3.3 C.7.6.3) of one file, checked."""

    rows: int
    columns: int
    frames: int
    samples: int
    photometric: str
    planar: int
    bits_allocated: int
    bits_stored: int
    signed: bool


def display_frame(path: Path, frame: int) -> Rgb:
    """One frame in the size it is stored in, uint8 (rows, columns, 3), RGB, origin top left.

    Args:
        frame: counted from 1 (PS3.3 C.12 Referenced Frame Number).

    Raises:
        Reject: there are no pixels, no such frame, or it cannot be decoded.
        OSError: the file cannot be opened.
    """
    shade, _ = _frame(path, frame)
    return _rgb(shade)


@dataclass(frozen=True, slots=True, eq=False)
class SquareFrame:
    """A frame as a model sees it.

    Attributes:
        pixels: uint8 (height, width, 3), RGB, square pixels, over exactly the field of view of the stored frame; so
            coordinates relative to the whole image are the same in both.
        rows, columns: the size of the stored frame, in which boxes are reported.
    """

    pixels: Rgb
    rows: int
    columns: int


def model_frame(path: Path, frame: int, *, longest_side: int = 1024) -> SquareFrame:
    """One frame with square pixels, at most `longest_side` pixels long, averaged over areas.

    Raises as `display_frame`.
    """
    shade, aspect = _frame(path, frame)
    rows, columns = shade.shape[:2]
    return SquareFrame(_rgb(_resized(shade, aspect, longest_side)), rows, columns)


def png_of(pixels: Rgb, *, longest_side: int = 2048) -> bytes:
    """A PNG of a frame, shrunk (never enlarged) to at most `longest_side` pixels; grey frames become grey PNGs."""
    small = _resized(pixels, 1.0, longest_side)
    if (small[..., 0] == small[..., 1]).all() and (small[..., 1] == small[..., 2]).all():
        small = np.ascontiguousarray(small[..., 0])
    file = io.BytesIO()
    Image.fromarray(small).save(file, "PNG", compress_level=2)
    return file.getvalue()


def pixel_aspect(path: Path, frame: int = 1) -> float:
    """Height of a pixel divided by its width; 1.0 when square or not stated. Raises as `display_frame`."""
    with opened(path) as file:
        return _aspect(_places(file.dataset, frame))


def _frame(path: Path, frame: int) -> tuple[NDArray[np.uint8], float]:
    """Grey (rows, columns) or RGB (rows, columns, 3), and the pixel aspect."""
    with opened(path, whole=True) as file:
        description = _describe(file)
        if not 1 <= frame <= description.frames:
            raise Reject(f"the image has {description.frames} frames, and frame {frame} was asked for")
        stored = _decode(path, file, description, frame - 1)
        places = _places(file.dataset, frame)
        shade = _shade(stored, file.dataset, places, description)
        if shade.shape[:2] != (description.rows, description.columns):
            raise Reject("the decoded frame has another size than its header says")
        return shade, _aspect(places)


def _describe(file: File) -> _Description:
    dataset = file.dataset
    if file.pixel_data is None:
        raise Reject("the file ends before its pixels" if dataset.cut_off else "the object has no pixel data")
    rows, columns = dataset.unsigned(0x00280010) or 0, dataset.unsigned(0x00280011) or 0
    if not rows or not columns:
        raise Reject("the image states no rows or no columns")
    frames = max(dataset.integer(0x00280008) or 1, 1)
    check_claims(
        rows=rows,
        columns=columns,
        frames=frames,
        encapsulated=file.pixel_data.undefined_length,
        pixel_bytes=file.pixel_bytes,
    )
    samples = dataset.unsigned(0x00280002) or 1
    allocated = dataset.unsigned(0x00280100) or 0
    stored = dataset.unsigned(0x00280101) or allocated
    if samples not in (1, 3) or allocated not in (1, 8, 16, 32, 64) or not 1 <= stored <= allocated:
        raise Reject(f"pixels of {samples} samples and {stored} of {allocated} bits are not supported")
    return _Description(
        rows=rows,
        columns=columns,
        frames=frames,
        samples=samples,
        photometric=dataset.ascii(0x00280004).upper() or ("MONOCHROME2" if samples == 1 else "RGB"),
        planar=dataset.unsigned(0x00280006) or 0,
        bits_allocated=allocated,
        bits_stored=stored,
        signed=dataset.unsigned(0x00280103) == 1,
    )


def _decode(path: Path, file: File, description: _Description, index: int) -> NDArray[Any]:
    """The stored values of one frame: (rows, columns) or (rows, columns, 3), YBR already RGB."""
    element = file.pixel_data
    assert element is not None
    uid = UID(file.transfer_syntax_uid)
    options = _options(file.dataset, description, element)
    source = _source(path, file, element)
    try:
        if uid.is_encapsulated != element.undefined_length:  # PS3.5 A.4
            raise Reject("the pixels are not encoded as the transfer syntax says")
        if element.undefined_length:
            codestream = _codestream(source, element, options, description, index)
            if uid == extended_jpeg.SYNTAX and description.bits_stored > 8 and description.samples == 1:
                return extended_jpeg.decode(codestream, rows=description.rows, columns=description.columns)
        else:
            _check_length(element, len(file.dataset.buffer), description, index)
        return _as_array(uid, source, element.start, options, index)
    except Reject:
        raise
    except Exception as error:  # decoders raise whatever they like; all of it means the same here
        name = uid.name if uid.is_transfer_syntax else "unknown"
        raise Reject(f"the pixels ({name}) could not be decoded: {type(error).__name__}") from error
    finally:
        source.close()


def _as_array(uid: UID, source: BinaryIO, start: int, options: dict[str, Any], index: int) -> NDArray[Any]:
    decoder = get_decoder(uid)
    preferred = _PREFERRED.get(str(uid), "")
    for plugin in (preferred, "") if preferred in decoder.available_plugins else ("",):
        source.seek(start)
        try:
            return decoder.as_array(source, index=index, raw=False, decoding_plugin=plugin, **options)[0]
        except RuntimeError:
            if not plugin:
                raise
    raise AssertionError("the last attempt returns or raises")


def _source(path: Path, file: File, element: Element) -> BinaryIO:
    if not isinstance(file.dataset.buffer, mmap.mmap):  # a deflated dataset, inflated in memory
        source: BinaryIO = io.BytesIO(file.dataset.buffer)
    else:
        source = path.open("rb")
    source.seek(element.start)
    return source


def _options(dataset: Elements, description: _Description, element: Element) -> dict[str, Any]:
    options: dict[str, Any] = {
        "rows": description.rows,
        "columns": description.columns,
        "number_of_frames": description.frames,
        "samples_per_pixel": description.samples,
        "photometric_interpretation": description.photometric,
        "bits_allocated": description.bits_allocated,
        "bits_stored": description.bits_stored,
        "pixel_representation": int(description.signed),
        "pixel_keyword": _KEYWORDS[element.tag],
        "pixel_vr": element.vr.decode("ascii", "replace") or "OW",
    }
    if description.samples > 1:
        options["planar_configuration"] = description.planar
    offsets, lengths = (dataset.raw(tag, limit=1 << 24) for tag in (0x7FE00001, 0x7FE00002))
    if offsets and len(offsets) == len(lengths):
        options["extended_offsets"] = (offsets, lengths)
    return options


def _check_length(element: Element, size: int, description: _Description, index: int) -> None:
    samples = 2 if description.photometric == "YBR_FULL_422" else description.samples
    bits = description.rows * description.columns * samples * description.bits_allocated
    needed = element.start + math.ceil(bits * (index + 1) / 8)
    if needed > min(element.end, size):
        raise Reject("the file holds fewer pixels than its header says")


def _codestream(
    source: BinaryIO, element: Element, options: dict[str, Any], description: _Description, index: int
) -> bytes:
    """The compressed bytes of one frame, after a look at the size that they claim."""
    frame = get_frame(
        source, index, number_of_frames=description.frames, extended_offsets=options.get("extended_offsets")
    )
    source.seek(element.start)
    claimed = claimed_size(frame)
    if claimed is not None and claimed[:2] != (description.rows, description.columns):
        told = f"{description.rows} x {description.columns}"
        raise Reject(f"the compressed image is {claimed[0]} x {claimed[1]} pixels, its header says {told}")
    return frame


def _places(dataset: Elements, frame: int) -> tuple[Elements, ...]:
    """Where a frame's attributes may stand: its functional groups, the shared ones, the dataset (PS3.3 C.7.6.16)."""
    places: list[Elements] = []
    for groups in (dataset.item(0x52009230, frame - 1), dataset.item(0x52009229)):
        if groups is not None:
            # Pixel Value Transformation, Frame VOI LUT, Pixel Measures
            macros = (groups.item(tag) for tag in (0x00289145, 0x00289132, 0x00289110))
            places += [macro for macro in macros if macro is not None]
    return (*places, dataset)


def _aspect(places: Sequence[Elements]) -> float:
    for tag in (0x00280030, 0x00181164, 0x00182010, 0x00280034):  # row (vertical) value first in all of them
        for place in places:
            pair = place.decimals(tag)
            if len(pair) >= 2 and pair[0] > 0 and pair[1] > 0:
                ratio = pair[0] / pair[1]
                return ratio if 0.1 <= ratio <= 10 else 1.0
    return 1.0


def _shade(
    stored: NDArray[Any], dataset: Elements, places: Sequence[Elements], description: _Description
) -> NDArray[np.uint8]:
    if description.photometric == "PALETTE COLOR":
        return _palette(stored, dataset)
    if stored.ndim == 3:
        excess = max(description.bits_stored - 8, 0)
        return np.asarray(stored if excess == 0 else np.right_shift(stored, excess)).astype(np.uint8)
    if not description.photometric.startswith("MONOCHROME"):
        raise Reject(f"photometric interpretation {description.photometric[:16]!r} is not supported")
    gray = grayscale_of(
        places,
        bits_stored=min(description.bits_stored, 32),
        signed=description.signed,
        invert=description.photometric == "MONOCHROME1",
    )
    if stored.dtype.kind == "f" or stored.dtype.itemsize > 2:
        return _by_value(stored, gray)
    return _by_table(stored, gray, dataset, needs_window=description.bits_stored > 8)


def _by_table(stored: NDArray[Any], gray: Grayscale, dataset: Elements, *, needs_window: bool) -> NDArray[np.uint8]:
    """Every possible value is rendered once; a pixel costs one look-up."""
    wide = stored.dtype.itemsize == 2
    index: NDArray[np.unsignedinteger[Any]] = stored.view(np.uint16 if wide else np.uint8)
    entries = np.arange(1 << 16 if wide else 1 << 8, dtype=np.uint16 if wide else np.uint8)
    values = entries.view(stored.dtype).astype(np.float64)
    if gray.voi is None and needs_window:
        counts = np.bincount(index[::_SAMPLE_STEP, ::_SAMPLE_STEP].ravel(), minlength=len(entries))
        padding = dataset.unsigned(0x00280120)
        if padding is not None and padding < len(counts):  # PS3.3 C.7.5.1.1.2: no part of the image
            counts[padding] = 0
        gray = _with_window(gray, gray.modality(values), counts)
    return np.take(gray.render(values), index)


def _by_value(stored: NDArray[Any], gray: Grayscale) -> NDArray[np.uint8]:
    values = np.nan_to_num(stored.astype(np.float64), posinf=0.0, neginf=0.0)
    if gray.voi is None:
        found, counts = np.unique(gray.modality(values[::_SAMPLE_STEP, ::_SAMPLE_STEP]), return_counts=True)
        gray = _with_window(gray, found, counts)
    return gray.render(values)


def _with_window(gray: Grayscale, values: NDArray[np.float64], counts: NDArray[np.int64]) -> Grayscale:
    return Grayscale(
        gray.slope,
        gray.intercept,
        gray.modality_lut,
        percentile_window(values, counts),
        gray.lowest,
        gray.highest,
        gray.invert,
    )


def _palette(stored: NDArray[Any], dataset: Elements) -> NDArray[np.uint8]:
    """PS3.3 C.7.6.3.1.5 and .6: palette tables, plain or segmented."""
    tables = Dataset()
    tables.set_original_encoding(False, True)
    for tag in _PALETTE:
        if tag not in dataset.by_tag:
            continue
        if tag & 0xFF00 == 0x1100:
            tables.add_new(tag, "US", list(dataset.shorts(tag)))
        else:
            # pydicom reads table data as little endian
            tables.add_new(tag, "OW", np.asarray(dataset.shorts(tag), "<u2").tobytes())
    try:
        colours = apply_color_lut(stored, tables)
    except Exception as error:  # a malformed table raises whatever it happens to hit
        raise Reject(f"the palette could not be applied: {type(error).__name__}") from error
    colours = colours[..., :3]
    if colours.dtype.itemsize > 1:
        bits = int(dataset.shorts(0x00281101)[2])
        colours = np.right_shift(colours, max(bits - 8, 0))
    return np.asarray(colours).astype(np.uint8)


def _resized(pixels: NDArray[np.uint8], aspect: float, longest_side: int) -> NDArray[np.uint8]:
    """Square pixels, at most `longest_side` long, over exactly the same field of view."""
    rows, columns = pixels.shape[:2]
    # Stretch the coarser axis, so that squaring never loses detail before the limit applies.
    height, width = (rows * aspect, float(columns)) if aspect >= 1 else (float(rows), columns / aspect)
    scale = min(1.0, longest_side / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    if size == (columns, rows):
        return pixels
    # A triangle as wide as the reduction, centred on the target pixel: unlike Pillow's BOX, which rounds to whole
    # source pixels, it moves nothing.
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def _rgb(shade: NDArray[np.uint8]) -> Rgb:
    if shade.ndim == 3:
        return np.ascontiguousarray(shade)
    return np.repeat(shade[..., None], 3, axis=2)
