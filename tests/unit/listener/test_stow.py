"""A STOW-RS request without a network: parts in, outcomes out."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilum.adapters.sql.tables import instances
from hilum.domain.errors import Reject
from hilum.testing.dicom_files import chest_image
from hilum_listener.handlers.stow import (
    HEAD_BYTES,
    MAX_PARTS,
    Failure,
    Outcome,
    StoreWarning,
    Transaction,
    boundary_of,
    examine,
)
from hilum_listener.testing_stow import BOUNDARY, IMAGE, MEDIA_TYPE, PIXELS, Door, body_of, failures, named

DEFLATED = "1.2.840.10008.1.2.1.99"


def test_the_part_is_stored_bit_for_bit_and_journaled_with_what_it_says_it_is(door: Door, part10: Any) -> None:
    sent = part10()
    (outcome,) = door.post(body_of([sent]))
    assert outcome == Outcome(IMAGE.SOPClassUID, IMAGE.SOPInstanceUID)
    assert door.files() == [sent]
    (entry,) = door.received()
    assert (entry.sop_instance_uid, entry.sop_class_uid) == (IMAGE.SOPInstanceUID, IMAGE.SOPClassUID)
    assert (entry.transfer_syntax_uid, entry.size) == ("1.2.840.10008.1.2.1", len(sent))
    assert (entry.calling_ae, entry.peer, entry.association) == ("WEB", "127.0.0.1", "w-1")
    assert entry.received_at == door.listener.clock.now()


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_it_does_not_matter_in_which_pieces_the_body_comes(door: Door, part10: Any, piece: int) -> None:
    sent = [part10(named("a")), part10(named("b"))]
    assert failures(door.post(body_of(sent), piece=piece)) == [None, None]
    assert sorted(door.files()) == sorted(sent)


@pytest.mark.parametrize("content", [b"\r\n--hilum", b"--hilum-test", b"\r\n--hilum-tes\r\n", b"\r\r\n\n--", b"\r\n"])
def test_content_that_nearly_is_a_boundary_stays_content(door: Door, part10: Any, content: bytes) -> None:
    sent = part10(named("tail")) + content * 40
    for piece in (1, 13, 1 << 16):
        assert failures(door.post(body_of([sent]), piece=piece)) == [None]
    assert door.files() == [sent] * 3


def test_a_bad_part_costs_its_neighbours_nothing(door: Door, part10: Any) -> None:
    good = [part10(named("a")), part10(named("b"))]
    outcomes = door.post(body_of([good[0], b"GIF89a", b"", good[1]]))
    assert failures(outcomes) == [None, Failure.CANNOT_UNDERSTAND, Failure.CANNOT_UNDERSTAND, None]
    assert sorted(door.files()) == sorted(good)
    assert door.half_written() == []


def test_without_the_preamble_s_prefix_it_is_no_file(door: Door, part10: Any) -> None:
    sent = part10()
    outcomes = door.post(body_of([sent[:128] + b"DICX" + sent[132:], sent[132:], sent[:131]]))
    assert failures(outcomes) == [Failure.CANNOT_UNDERSTAND] * 3
    assert (door.files(), door.received()) == ([], [])


@pytest.mark.parametrize("missing", ["SOPInstanceUID", "SOPClassUID"])
def test_without_the_name_of_its_object_it_is_refused(door: Door, part10: Any, missing: str) -> None:
    sent = part10(named("x", **{missing: None}))
    for element in (b"\2", b"\3"):  # nor may the file meta information help out
        sent = sent.replace(b"\2\0" + element + b"\0UI", b"\2\0\x77\0UI")
    assert failures(door.post(body_of([sent]))) == [Failure.CANNOT_UNDERSTAND]
    assert door.files() == []


@pytest.mark.parametrize("uid", [b"../../../etc/passwd", b"1.2/3", b"%2e%2e%2f", b"1.2.3;x", b"1.2\0.3", b"\xd9\xa1.2"])
def test_what_is_no_uid_never_gets_as_far_as_a_path(door: Door, part10: Any, uid: bytes) -> None:
    original = str(IMAGE.SOPInstanceUID).encode()
    sent = part10().replace(original, uid[: len(original)].ljust(len(original), b"7"))
    assert failures(door.post(body_of([sent]))) == [Failure.CANNOT_UNDERSTAND]
    assert door.files() == []


def test_a_file_whose_meta_information_names_another_object_is_refused(door: Door, part10: Any) -> None:
    uid = str(IMAGE.SOPInstanceUID).encode()
    sent = part10().replace(uid, uid[:-1] + (b"2" if uid.endswith(b"1") else b"1"), 1)
    assert failures(door.post(body_of([sent]))) == [Failure.DOES_NOT_MATCH_SOP_CLASS]


def test_an_instance_of_another_study_than_the_url_s_is_refused_and_named(door: Door, part10: Any) -> None:
    other = chest_image(PIXELS, study="other")
    outcomes = door.post(body_of([part10(), part10(other)]), study=str(IMAGE.StudyInstanceUID))
    assert outcomes[0].failure is None
    assert outcomes[1] == Outcome(other.SOPClassUID, other.SOPInstanceUID, failure=Failure.OTHER_STUDY)
    assert len(door.files()) == 1


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Type: application/dicom+json\r\n",
        b"Content-Type: application/octet-stream\r\n",
        b"Content-Type: application/dicom\r\nContent-Transfer-Encoding: base64\r\n",
    ],
)
def test_a_part_that_is_no_plain_dicom_file_is_refused(door: Door, part10: Any, head: bytes) -> None:
    assert failures(door.post(body_of([part10()], part_head=head))) == [Failure.CANNOT_UNDERSTAND]


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"content-type:application/dicom; transfer-syntax=1.2.840.10008.1.2.4.50\r\n",
        b"Content-Type: Application/DICOM\r\nContent-Location: http://x/y\r\nContent-Transfer-Encoding: BINARY\r\n",
    ],
)
def test_part_headers_may_be_written_in_many_ways(door: Door, part10: Any, head: bytes) -> None:
    assert failures(door.post(body_of([part10()], part_head=head))) == [None]


def test_a_missing_closing_boundary_costs_the_last_part_only(door: Door, part10: Any) -> None:
    sent = [part10(named("a")), part10(named("b"))]
    whole = body_of(sent)
    for cut in (len(whole) - len(BOUNDARY) - 6, len(whole) - len(BOUNDARY) - 200):
        outcomes = door.post(whole[:cut])
        assert failures(outcomes) == [None, Failure.CANNOT_UNDERSTAND]
        assert door.half_written() == []
    assert door.files() == [sent[0]] * 2


def test_a_truncated_part_is_named_when_its_uids_were_there(door: Door, part10: Any) -> None:
    dataset = named("long", PixelData=bytes(200_000), Rows=250, Columns=400)
    outcomes = door.post(body_of([part10(dataset)])[:150_000])
    assert outcomes == [Outcome(dataset.SOPClassUID, dataset.SOPInstanceUID, failure=Failure.CANNOT_UNDERSTAND)]
    assert (door.files(), door.half_written()) == ([], [])


def test_a_file_that_ends_before_its_pixels_do_is_stored_with_a_warning(door: Door, part10: Any) -> None:
    sent = part10()[:-20]
    (outcome,) = door.post(body_of([sent]))
    assert (outcome.failure, outcome.warning) == (None, StoreWarning.DOES_NOT_MATCH_SOP_CLASS)
    assert door.files() == [sent]


@pytest.mark.parametrize(
    "head",
    [
        b"X: " + b"y" * 5000 + b"\r\n",
        b"".join(b"X-%d: y\r\n" % n for n in range(100)),
        b"no colon at all\r\n",
        b"Content-Type: " + b"a/b;" * 500 + b"\r\n",
    ],
)
def test_part_headers_without_end_stop_the_reading_and_keep_what_came_before(
    door: Door, part10: Any, head: bytes
) -> None:
    first = body_of([part10(named("a"))])[: -len(BOUNDARY) - 6]
    outcomes = door.post(first + body_of([part10(named("b"))], part_head=head))
    assert outcomes[0].failure is None
    assert outcomes[-1].failure is Failure.CANNOT_UNDERSTAND
    assert len(door.files()) == 1


def test_more_parts_than_may_be_stop_the_reading(door: Door, part10: Any) -> None:
    outcomes = examine(MEDIA_TYPE, [body_of([b"x"] * (MAX_PARTS + 5))])
    assert len(outcomes) == MAX_PARTS + 1


@pytest.mark.parametrize(
    "body", [b"", b"\r\n", b"no boundary", b"--other\r\n\r\nx\r\n--other--\r\n", b"--hilum-test\r\n"]
)
def test_a_body_without_any_part_stores_nothing(door: Door, body: bytes) -> None:
    assert failures(door.post(body)) == [Failure.CANNOT_UNDERSTAND]
    assert (door.files(), door.half_written()) == ([], [])


def test_an_empty_multipart_has_no_outcome(door: Door) -> None:
    assert door.post(f"--{BOUNDARY}--\r\n".encode()) == []


def test_a_deflated_data_set_is_read_no_further_than_its_head(door: Door, part10: Any) -> None:
    bomb = named("bomb", PixelData=bytes(60 << 20), Rows=6000, Columns=5242)
    sent = part10(bomb, syntax=DEFLATED)
    assert len(sent) < 200_000
    (outcome,) = door.post(body_of([sent]))
    assert outcome == Outcome(bomb.SOPClassUID, bomb.SOPInstanceUID)


def test_a_study_uid_behind_the_first_two_mebibytes_is_left_to_the_index(door: Door, part10: Any) -> None:
    late = named("late")
    late.add_new(0x00090010, "LO", "MAKER")
    late.add_new(0x00091001, "OB", bytes(HEAD_BYTES))
    assert door.post(body_of([part10(late)])) == [Outcome(late.SOPClassUID, late.SOPInstanceUID)]
    assert failures(door.post(body_of([part10(late)]), study=late.StudyInstanceUID)) == [Failure.CANNOT_UNDERSTAND]
    door.listener.step()
    assert [row.sop_instance_uid for row in door.listener.rows(instances)] == [late.SOPInstanceUID]


def test_a_header_that_goes_on_for_more_than_that_behind_the_uids_is_no_hindrance(door: Door, part10: Any) -> None:
    sent = part10(named("enhanced"))
    pixels = sent.index(b"\xe0\x7f\x10\0OW")
    frames = b"\xfe\xff\x00\xe0\0\0\0\0" * (HEAD_BYTES // 8 + 1000)
    functional_groups = b"\0\x52\x30\x92SQ\0\0" + len(frames).to_bytes(4, "little") + frames
    long = sent[:pixels] + functional_groups + sent[pixels:]
    for piece in (1 << 16, 1 << 18):
        assert failures(door.post(body_of([long]), piece=piece)) == [None]


@pytest.mark.parametrize(
    ("media_type", "boundary"),
    [
        ('multipart/related; type="application/dicom"; boundary="a b"', "a b"),
        ("Multipart/Related;TYPE=application/dicom;Boundary=x", "x"),
        ('multipart/related; boundary=x; type="application/dicom; transfer-syntax=1.2.840.10008.1.2.4.50"', "x"),
        ("multipart/related; boundary=x", "x"),
    ],
)
def test_the_media_type_may_be_written_in_many_ways(media_type: str, boundary: str) -> None:
    assert boundary_of(media_type) == boundary


@pytest.mark.parametrize(
    "media_type",
    [
        "",
        "application/dicom",
        "multipart/form-data; boundary=x",
        'multipart/related; type="application/dicom+json"; boundary=x',
        'multipart/related; type="application/dicom+xml"; boundary=x',
        "multipart/related; type=application/dicom; boundary=" + "x" * 2000,
    ],
)
def test_other_media_types_are_refused(media_type: str) -> None:
    with pytest.raises(Reject):
        boundary_of(media_type)


@pytest.mark.parametrize("boundary", ["", " ", "a\r\nb", "x" * 71, "a ", "ä", "a\x00"])
def test_what_is_no_boundary_is_refused(boundary: str) -> None:
    with pytest.raises(Reject):
        Transaction(boundary, None)  # type: ignore[arg-type]  # never reached


@settings(max_examples=300, deadline=2000)
@given(st.binary(max_size=400), st.integers(1, 64), st.booleans())
def test_any_bytes_end_in_outcomes(noise: bytes, piece: int, framed: bool) -> None:
    body = body_of([noise, noise[::-1]]) if framed else b"--" + BOUNDARY.encode() + noise
    outcomes = examine(MEDIA_TYPE, [body[at : at + piece] for at in range(0, len(body), piece)])
    assert all(outcome.failure is not None for outcome in outcomes)
