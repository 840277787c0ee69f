"""The pre-check: what asks for more than any object needs is refused, and what is odd but harmless is not."""

import contextlib
import copy
import io
import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from hilum.adapters.dicom import elements, precheck
from hilum.adapters.dicom.header import read_header
from hilum.adapters.dicom.pixels import display_frame
from hilum.adapters.dicom.precheck import check_claims, check_structure, inflate
from hilum.domain.errors import Reject
from hilum.testing.hostile_files import (
    DEFLATED,
    ITEM_END,
    JPEG,
    PREFIX,
    SEQUENCE_END,
    bomb,
    data_set,
    deflated,
    element,
    file_of,
    item,
    nested,
    picture,
    places,
    uids,
)


def check(data: bytes, *, implicit: bool = False, big_endian: bool = False) -> int:
    return check_structure(data, 0, len(data), implicit=implicit, big_endian=big_endian)


def reason_for(path: Path) -> str:
    """Why its header can't be read; empty when it can."""
    try:
        read_header(path)
    except Reject as error:
        return error.reason
    return ""


@pytest.mark.parametrize("defined", [True, False])
@pytest.mark.parametrize("depth", [1, 20, 64])
def test_what_passes_can_be_read_walked_copied_and_written_by_pydicom(depth: int, defined: bool) -> None:
    data = data_set("1", before=nested(depth, defined=defined))
    check(data)
    dataset = dcmread(io.BytesIO(file_of(data)))
    dataset.walk(lambda _dataset, _element: None)
    copy.deepcopy(dataset).save_as(io.BytesIO())


@pytest.mark.parametrize("defined", [True, False])
@pytest.mark.parametrize("depth", [65, 200, 260, 20_000])
def test_deeper_sequences_are_refused(depth: int, defined: bool) -> None:
    # the deepest has no inner end, which is enough to be refused, and costs no quadratic time to make
    data = nested(depth, defined=defined) if depth < 1000 else nested(1, defined=False)[:20] * depth
    with pytest.raises(Reject, match="nested more than 64 deep"):
        check(data)


def test_depth_counts_in_implicit_and_big_endian_and_in_unknown_elements_too() -> None:
    content = b""
    for _ in range(80):
        content = struct.pack("<HHI", 0x40, 0xA730, len(content) + 8) + item(content)
    with pytest.raises(Reject, match="deep"):
        check(content, implicit=True)
    with pytest.raises(Reject, match="deep"):
        check(element(0x0040A730, "UN", item(content)))
    content = b""
    for _ in range(80):
        inner = struct.pack(">HHI", 0xFFFE, 0xE000, len(content)) + content
        content = struct.pack(">HH2sHI", 0x40, 0xA730, b"SQ", 0, len(inner)) + inner
    with pytest.raises(Reject, match="deep"):
        check(content, big_endian=True)


def test_more_elements_than_any_object_has_are_refused_wherever_they_are() -> None:
    many = item(b"") * (precheck.MAX_ELEMENTS + 1)
    with pytest.raises(Reject, match="more than 400000 elements"):
        check(element(0x00081140, "SQ", many))


def test_the_slowest_mix_that_passes_takes_seconds_at_most() -> None:
    opening, closing = nested(1, defined=False)[:20], ITEM_END + SEQUENCE_END
    block = opening * 64 + closing * 64
    data = block * (precheck.MAX_ELEMENTS // 256)
    begun = time.process_time()
    assert check(data) > 390_000
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    "sequence",
    [
        element(0x00081140, "SQ", item(element(0x00081150, "UI", b"1.2", length=200))),
        element(0x00081140, "SQ", item(b"", length=100)),
        element(0x00081140, "SQ", item(element(0x00082112, "SQ", b"", length=0xFFFFFFFF))),
        element(0x00081140, "SQ", element(0x00081150, "UI", b"1.2")),
        element(0x00081140, "SQ", item(SEQUENCE_END, length=0xFFFFFFFF), length=0xFFFFFFFF),
    ],
)
def test_a_nested_length_past_the_end_of_what_holds_it_is_refused(sequence: bytes) -> None:
    with pytest.raises(Reject):
        check(data_set("1", before=sequence))


def test_a_private_element_that_only_looks_like_a_sequence_is_passed_over(tmp_path: Path) -> None:
    blob = element(0x00091010, "UN", item(b"\xff" * 30, length=0xFFFF) + bytes(9))
    private = element(0x00091011, "SQ", item(element(0x00091012, "LO", b"x", length=300)))
    path = tmp_path / "a.dcm"
    path.write_bytes(file_of(data_set("1", before=blob + private)))
    assert read_header(path).study_instance_uid == "1.2.4.1"


def test_an_icon_s_fragments_are_bytes_and_no_elements() -> None:
    fragments = item(b"") + item(b"\x40\0\x30\xa7SQ\0\0\xff\xff\xff\xff" * 90) + SEQUENCE_END
    icon = element(0x7FE00010, "OB", fragments, length=0xFFFFFFFF)
    check(data_set("1", before=element(0x00880200, "SQ", item(icon))))


def test_a_file_that_is_cut_off_passes_and_says_so(tmp_path: Path) -> None:
    whole = file_of(data_set("1", before=nested(3, defined=False)))
    path = tmp_path / "a.dcm"
    for end in range(200, len(whole), 7):
        path.write_bytes(whole[:end])
        assert "UID is missing" in (reason_for(path) or "UID is missing")


def test_meta_information_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(PREFIX + element(0x00020102, "OB", bytes(1 << 21)))
    with pytest.raises(Reject, match="too long"):
        read_header(path)
    path.write_bytes(PREFIX + element(0x00020013, "SH", b"") * 200_000)
    with pytest.raises(Reject):
        read_header(path)


@pytest.mark.parametrize(
    ("image", "syntax", "reason"),
    [
        (picture(rows=65535, columns=65535), "", "claims 65535 x 65535 pixels"),
        (picture(rows=10000, columns=10001), "", "more than 100000000 in a frame"),
        (picture(frames="2147483647"), "", "claims 2147483647 frames, and there are 64 bytes"),
        (picture(frames="99")[:-76] + element(0x7FE00010, "OB", item(b""), length=0xFFFFFFFF), JPEG, "99 frames"),
    ],
)
def test_pixels_that_no_one_can_have_are_refused_by_index_and_decoder(
    tmp_path: Path, image: bytes, syntax: str, reason: str
) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(file_of(data_set("1", image=image), **({"syntax": syntax} if syntax else {})))
    with pytest.raises(Reject, match=reason):
        read_header(path)
    with pytest.raises(Reject, match=reason):
        display_frame(path, 1)


def test_a_claim_of_more_than_is_there_stays_in_the_index_and_its_decoding_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(file_of(data_set("1", image=picture(rows=9999, columns=9999))))
    assert read_header(path).rows == 9999  # its study then ends visibly, as failed
    with pytest.raises(Reject, match="fewer pixels than its header says"):
        display_frame(path, 1)


@pytest.mark.parametrize("entries", [(2, 200, 16), (0, 65535, 16), (1, 0, 8), (65535, 0, 16), (4, 0, 0)])
def test_palette_indexes_out_of_range_are_a_frame_or_a_reject(tmp_path: Path, entries: tuple[int, int, int]) -> None:
    descriptor = struct.pack("<3H", *entries)
    tables = b"".join(element(tag, "US", descriptor) for tag in (0x00281101, 0x00281102, 0x00281103))
    tables += b"".join(element(tag, "OW", b"\x01\x02\x03\x04") for tag in (0x00281201, 0x00281202, 0x00281203))
    image = picture(photometric="PALETTE COLOR", pixels=bytes(range(0, 256, 4)))
    at = image.index(b"\xe0\x7f\x10\x00")
    path = tmp_path / "a.dcm"
    path.write_bytes(file_of(data_set("1", image=image[:at] + tables + image[at:])))
    reason = ""
    try:
        shape = display_frame(path, 1).shape
    except Reject as error:
        reason = error.reason
    assert "palette" in reason or shape == (8, 8, 3)


def test_a_bomb_costs_its_limit_at_most(tmp_path: Path) -> None:
    path = tmp_path / "bomb.dcm"
    path.write_bytes(file_of(bomb("1", zeros_mb=80), syntax=DEFLATED))
    tracemalloc.start()
    try:
        with pytest.raises(Reject, match="deflated header is larger than 64 MiB"):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 100_000_000
    finally:
        tracemalloc.stop()


def test_a_deflated_image_is_read_up_to_its_pixels_and_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_set("1", image=picture(rows=2000, columns=2000, pixels=bytes(4_000_000)))
    path = tmp_path / "a.dcm"
    path.write_bytes(file_of(deflated(data), syntax=DEFLATED))
    monkeypatch.setattr(elements, "MAX_INFLATED_HEAD_BYTES", 1 << 20)
    assert read_header(path).rows == 2000
    assert display_frame(path, 1).shape == (2000, 2000, 3)


def test_padding_behind_a_deflated_data_set_is_no_part_of_it() -> None:
    data = data_set("1")
    assert inflate(deflated(data) + bytes(300_000), 0, limit=1 << 20) == (bytearray(data), True)


@given(data=st.binary(max_size=300), implicit=st.booleans(), big_endian=st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_bytes_end_in_a_count_or_a_reject(data: bytes, implicit: bool, big_endian: bool) -> None:
    for start in (b"", nested(2, defined=False)[:40]):
        with contextlib.suppress(Reject):
            assert check(start + data, implicit=implicit, big_endian=big_endian) <= (len(start + data) // 8) + 1


def test_claims_of_sound_images_pass() -> None:
    check_claims(rows=512, columns=512, frames=1, encapsulated=False, pixel_bytes=524288)
    check_claims(rows=256, columns=256, frames=100_000, encapsulated=True, pixel_bytes=900_000)
    check_claims(rows=0, columns=0, frames=1, encapsulated=False, pixel_bytes=0)
    assert len(uids("1") + places("1")) > 100
