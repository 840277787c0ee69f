"""Pixels: right for every encoding, and bounded for hostile files."""

import io
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file, get_testdata_files
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut  # type: ignore[attr-defined]
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from hilum.adapters.dicom.grayscale import Function, Window
from hilum.adapters.dicom.header import read_header
from hilum.adapters.dicom.pixels import display_frame, model_frame, pixel_aspect, png_of
from hilum.domain.errors import Reject
from hilum.testing.dicom_files import chest_image, write

RNG = np.random.default_rng(7)
# Files of pydicom's own suite that are broken on purpose, and what is said of them.
BROKEN = {
    "JPEG2000-embedded-sequence-delimiter.dcm": "the compressed image is",
    "MR_truncated.dcm": "fewer pixels than its header says",
    "emri_small_jpeg_2k_lossless_too_short.dcm": "",
}


def smooth(rows: int, columns: int, top: int) -> NDArray[np.uint16]:
    y, x = np.mgrid[0:rows, 0:columns]
    return np.asarray((np.sin(y / 9) * np.cos(x / 13) + 1) / 2 * top).astype(np.uint16)


def windowed_slowly(values: Any, centre: float, width: float, function: str) -> int:
    """One value through the window, word for word from PS3.3 C.11.2.1.2 and C.11.2.1.3, 0 to 255."""
    if function == "SIGMOID":
        return int(255 / (1 + np.exp(-4 * (values - centre) / width)) + 0.5)
    if function == "LINEAR_EXACT":
        if values <= centre - width / 2:
            return 0
        if values > centre + width / 2:
            return 255
        return int(((values - centre) / width + 0.5) * 255 + 0.5)
    if values <= centre - 0.5 - (width - 1) / 2:
        return 0
    if values > centre - 0.5 + (width - 1) / 2:
        return 255
    return int(((values - (centre - 0.5)) / (width - 1) + 0.5) * 255 + 0.5)


def test_every_public_image_is_decoded_or_rejected_with_a_reason() -> None:
    decoded, rejected = 0, dict[str, str]()
    for path in map(Path, get_testdata_files("**/*.dcm")):
        try:
            header = read_header(path)
            if not header.frames:
                continue
        except Reject:
            continue
        try:
            frame = display_frame(path, (header.frames + 1) // 2)
        except Reject as reject:
            rejected[path.name] = reject.reason
            continue
        assert frame.shape == (header.rows, header.columns, 3)
        assert frame.dtype == np.uint8
        decoded += 1
    assert rejected.keys() <= BROKEN.keys()
    assert all(BROKEN[name] in reason for name, reason in rejected.items())
    assert decoded >= 120


def test_public_grey_images_match_pydicoms_own_lut_functions() -> None:
    compared = 0
    for path in map(Path, get_testdata_files("**/*.dcm")):
        dataset = dcmread(path, force=True)
        has_voi = "WindowWidth" in dataset or "VOILUTSequence" in dataset
        grey = dataset.get("PhotometricInterpretation", "").startswith("MONOCHROME")
        if not has_voi or not grey or path.name in BROKEN or int(dataset.get("NumberOfFrames") or 1) > 1:
            continue
        try:
            got = display_frame(path, 1)[..., 0].astype(float)
        except Reject:
            continue
        values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset, index=0).astype(float)
        if "VOILUTSequence" in dataset and dataset.VOILUTSequence:
            low, high = 0.0, float((1 << dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1)
        else:
            # pydicom scales a window to the range of the stored bits after the modality LUT
            stored = (1 << dataset.BitsStored) - 1
            slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
            least = -(1 << (dataset.BitsStored - 1)) if dataset.PixelRepresentation else 0
            low, high = least * slope + intercept, (least + stored) * slope + intercept
        expected = (values - low) / (high - low) * 255
        if dataset.PhotometricInterpretation == "MONOCHROME1":
            expected = 255 - expected
        assert np.abs(got - expected).max() <= 1.0, path.name
        compared += 1
    assert compared >= 10


@given(
    stored=st.lists(st.integers(-32768, 32767), min_size=1, max_size=24),
    centre=st.floats(-5000, 5000),
    width=st.floats(1.5, 9000),
    slope=st.sampled_from([1.0, 0.5, 2.0]),
    intercept=st.sampled_from([0.0, -1024.0]),
    function=st.sampled_from(list(Function)),
    invert=st.booleans(),
)
def test_the_table_equals_slow_arithmetic_for_every_window(
    tmp_path_factory: pytest.TempPathFactory,
    stored: list[int],
    centre: float,
    width: float,
    slope: float,
    intercept: float,
    function: Function,
    invert: bool,
) -> None:
    centre, width = float(f"{centre:.4g}"), float(f"{width:.4g}")
    dataset = chest_image(
        np.asarray([stored], np.int16),
        WindowCenter=centre,
        WindowWidth=width,
        VOILUTFunction=str(function),
        RescaleSlope=slope,
        RescaleIntercept=intercept,
        PhotometricInterpretation="MONOCHROME1" if invert else "MONOCHROME2",
    )
    shown = display_frame(write(tmp_path_factory.mktemp("w") / "a.dcm", dataset), 1)[0, :, 0]
    for value, got in zip(stored, shown, strict=True):
        expected = windowed_slowly(value * slope + intercept, centre, width, function)
        assert abs(int(got) - (255 - expected if invert else expected)) <= 1


def test_a_window_of_width_one_splits_at_its_centre() -> None:
    shades = Window(10, 1).apply(np.asarray([9.0, 9.5, 9.6, 10.0]))
    assert shades.tolist() == [0, 0, 1, 1]


def test_a_voi_table_is_used_before_a_window(tmp_path: Path) -> None:
    item = Dataset()
    item.LUTDescriptor = [4, 10, 12]
    item.LUTDescriptor.VR = "US"
    item.add_new("LUTData", "US", [0, 4095, 0, 4095])
    dataset = chest_image(
        np.asarray([[0, 10, 11, 12, 13, 99]], np.uint16), WindowCenter=5, WindowWidth=2, VOILUTSequence=Sequence([item])
    )
    shown = display_frame(write(tmp_path / "a.dcm", dataset), 1)[0, :, 0]
    assert shown.tolist() == [0, 0, 255, 0, 255, 255]


def test_without_a_window_the_bulk_of_the_values_is_shown_and_padding_does_not_count(tmp_path: Path) -> None:
    pixels = smooth(64, 64, 400) + 1000
    pixels[:16] = 0
    with_padding = chest_image(pixels, BitsStored=12, HighBit=11, PixelPaddingValue=0)
    shown = display_frame(write(tmp_path / "a.dcm", with_padding), 1)[16:, :, 0]
    assert shown.min() <= 3
    assert shown.max() >= 252


def test_eight_bit_images_without_a_window_are_shown_as_they_are(tmp_path: Path) -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (display_frame(write(tmp_path / "a.dcm", chest_image(pixels)), 1)[..., 1] == pixels).all()


def test_bits_above_the_stored_ones_are_no_part_of_the_value(tmp_path: Path) -> None:
    pixels = smooth(8, 8, 4095)
    window: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096, "BitsStored": 12, "HighBit": 11}
    clean = display_frame(write(tmp_path / "a.dcm", chest_image(pixels, **window)), 1)
    overlay = display_frame(write(tmp_path / "b.dcm", chest_image(pixels | 0x8000, **window)), 1)
    assert (clean == overlay).all()


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless, ExplicitVRBigEndian])
@pytest.mark.parametrize("frames", [1, 3])
def test_lossless_encodings_show_the_same_frame_as_native_pixels(tmp_path: Path, syntax: str, frames: int) -> None:
    pixels = np.stack([smooth(40, 56, 4095 - 500 * n) for n in range(frames)])
    native = chest_image(pixels, BitsStored=12, HighBit=11, WindowCenter=2000, WindowWidth=3000)
    expected = display_frame(write(tmp_path / "n.dcm", native), frames)
    if syntax == ExplicitVRBigEndian:
        native.PixelData = pixels.astype(">u2").tobytes()
        native.set_original_encoding(False, False)
        path = write(tmp_path / "c.dcm", native, syntax=syntax)
    else:
        native.compress(syntax, generate_instance_uid=False)
        native.save_as(tmp_path / "c.dcm", enforce_file_format=True)
        path = tmp_path / "c.dcm"
    assert (display_frame(path, frames) == expected).all()


def test_only_existing_frames_are_shown(tmp_path: Path) -> None:
    path = write(tmp_path / "a.dcm", chest_image(np.stack([np.full((4, 4), n * 50, np.uint8) for n in range(3)])))
    assert display_frame(path, 3)[0, 0, 0] == 100
    for frame in (0, 4):
        with pytest.raises(Reject, match="3 frames"):
            display_frame(path, frame)


def test_enhanced_images_take_their_window_from_the_frame(tmp_path: Path) -> None:
    groups = []
    for centre in (100, 1000):
        window, item = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = centre, 1
        item.FrameVOILUTSequence = Sequence([window])
        groups.append(item)
    pixels = np.full((2, 4, 4), 500, np.uint16)
    path = write(tmp_path / "a.dcm", chest_image(pixels, PerFrameFunctionalGroupsSequence=Sequence(groups)))
    assert display_frame(path, 1).min() == 255
    assert display_frame(path, 2).max() == 0


def test_colour_palette_and_ybr_become_rgb() -> None:
    for name in ("OBXXXX1A.dcm", "SC_ybr_full_422_uncompressed.dcm", "color3d_jpeg_baseline.dcm", "SC_rgb_rle.dcm"):
        path = Path(str(get_testdata_file(name)))
        frame = display_frame(path, 1)
        assert (frame[..., 0] != frame[..., 2]).any(), name
    reference = display_frame(Path(str(get_testdata_file("SC_rgb.dcm"))), 1)
    ybr = display_frame(Path(str(get_testdata_file("SC_ybr_full_uncompressed.dcm"))), 1)
    assert np.abs(reference.astype(int) - ybr).max() <= 6  # YBR of 8 bits rounds


def test_twelve_bit_jpeg_is_decoded() -> None:
    path = Path(str(get_testdata_file("JPGExtended.dcm")))
    frame = display_frame(path, 1)
    assert frame[420, 140, 0] > frame[230, 120, 0] > 0  # 244 and 95 in pydicom's own tests


def test_the_model_sees_square_pixels_over_the_whole_field_of_view(tmp_path: Path) -> None:
    pixels = np.zeros((100, 300), np.uint8)
    pixels[20:40, 150:225] = 255
    path = write(tmp_path / "a.dcm", chest_image(pixels, PixelAspectRatio=[2, 1]))
    assert pixel_aspect(path) == 2.0
    frame = model_frame(path, 1)
    assert (frame.rows, frame.columns) == (100, 300)
    seen = frame.pixels[..., 0]
    assert seen.shape == (200, 300)
    rows, columns = np.nonzero(seen > 127)
    assert (rows.min() / 200, (rows.max() + 1) / 200) == pytest.approx((0.2, 0.4), abs=0.01)
    assert (columns.min() / 300, (columns.max() + 1) / 300) == pytest.approx((0.5, 0.75), abs=0.01)


@given(side=st.integers(16, 90), rows=st.integers(90, 200), columns=st.integers(90, 200))
def test_shrinking_never_moves_what_is_seen(
    tmp_path_factory: pytest.TempPathFactory, side: int, rows: int, columns: int
) -> None:
    ramp = np.add.outer(np.arange(rows), np.arange(columns)).astype(np.float64)
    pixels = np.rint(ramp / ramp.max() * 255).astype(np.uint8)
    path = write(tmp_path_factory.mktemp("s") / "a.dcm", chest_image(pixels))
    seen = model_frame(path, 1, longest_side=side).pixels[..., 0]
    assert max(seen.shape) == side
    y = (np.arange(seen.shape[0]) + 0.5) / seen.shape[0] * rows - 0.5
    x = (np.arange(seen.shape[1]) + 0.5) / seen.shape[1] * columns - 0.5
    expected = np.add.outer(y, x) / ramp.max() * 255
    # Pillow rounds twice, and at the border a filter has less to average.
    assert np.abs(seen - expected)[2:-2, 2:-2].max() < 1.5


def test_a_png_is_bounded_and_grey_when_the_frame_is(tmp_path: Path) -> None:
    frame = display_frame(write(tmp_path / "a.dcm", chest_image(smooth(300, 200, 4095), BitsStored=12, HighBit=11)), 1)
    image = Image.open(io.BytesIO(png_of(frame, longest_side=150)))
    assert (image.size, image.mode) == ((100, 150), "L")
    assert Image.open(io.BytesIO(png_of(frame))).size == (200, 300)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Rows": 65535, "Columns": 65535}, "claims 65535 x 65535"),
        ({"Rows": 9000, "Columns": 9000}, "fewer pixels"),
        ({"BitsAllocated": 12}, "not supported"),
        ({"SamplesPerPixel": 7}, "not supported"),
        ({"PhotometricInterpretation": "HSV"}, ""),
        ({"BitsStored": 40}, "not supported"),
        ({"PixelData": None}, "no pixel data"),
    ],
)
def test_claims_that_the_bytes_do_not_keep_are_rejected(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = write(tmp_path / "a.dcm", chest_image(smooth(8, 8, 255), **changes))
    with pytest.raises(Reject, match=reason):
        display_frame(path, 1)


def test_a_small_header_with_a_huge_codestream_is_rejected_before_decoding(tmp_path: Path) -> None:
    frame = b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 11, 8, 60000, 60000, 1) + b"\1\x11\0" + b"\xff\xd9"
    dataset = chest_image(np.zeros((8, 8), np.uint8), PixelData=encapsulate([frame]))
    dataset["PixelData"].is_undefined_length = True
    with pytest.raises(Reject, match="60000 x 60000"):
        display_frame(write(tmp_path / "a.dcm", dataset, syntax=JPEGBaseline8Bit), 1)


def test_native_pixels_under_a_compressed_syntax_are_rejected(tmp_path: Path) -> None:
    dataset = chest_image(np.zeros((8, 8), np.uint8))
    native = write(tmp_path / "a.dcm", dataset).read_bytes()
    (tmp_path / "b.dcm").write_bytes(native.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"))
    with pytest.raises(Reject, match="not encoded as the transfer syntax says"):
        display_frame(tmp_path / "b.dcm", 1)


@given(at=st.integers(0, 900), damage=st.binary(min_size=1, max_size=12))
def test_any_damage_ends_in_a_frame_or_a_reject(
    tmp_path_factory: pytest.TempPathFactory, at: int, damage: bytes
) -> None:
    path = tmp_path_factory.mktemp("d") / "a.dcm"
    good = bytearray(write(path, chest_image(smooth(8, 8, 255), WindowCenter=9, WindowWidth=9)).read_bytes())
    good[at : at + len(damage)] = damage
    path.write_bytes(bytes(good))
    with suppress(Reject):
        assert display_frame(path, 1).shape[2] == 3


def test_a_twelve_bit_radiograph_is_ready_well_within_150_ms(tmp_path: Path) -> None:
    pixels = smooth(2500, 3000, 4095)
    path = write(
        tmp_path / "a.dcm", chest_image(pixels, BitsStored=12, HighBit=11, WindowCenter=2000, WindowWidth=3000)
    )
    seconds = []
    for _ in range(3):
        start = time.process_time()  # of this process: the machine may be busy with something else
        model_frame(path, 1)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.15
