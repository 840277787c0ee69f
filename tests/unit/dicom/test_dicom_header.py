"""Headers: every odd thing ends in a value or a Reject."""

import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.data import get_testdata_files
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr._snomed_dict import mapping
from pydicom.sr.codedict import codes

from hilum.adapters.dicom import header as header_module
from hilum.adapters.dicom.header import read_header
from hilum.adapters.dicom.text import TextDecoder
from hilum.domain.errors import Reject
from hilum.testing.dicom_files import chest_image, write

PIXELS = np.arange(64, dtype=np.uint16).reshape(8, 8)
META = b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\0"
PREFIX = bytes(128) + b"DICM" + META


def public_files() -> list[Path]:
    return [path for path in map(Path, get_testdata_files("**/*.dcm")) if path.is_file()]


def explicit(tag: int, vr: str, value: bytes) -> bytes:
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    if vr in {"SQ", "UN", "OB", "UT"}:
        return head + struct.pack("<HI", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


UIDS = (
    explicit(0x00080016, "UI", b"1.2.840.10008.5.1.4.1.1.1\0")
    + explicit(0x00080018, "UI", b"1.2.3.4\0")
    + explicit(0x0020000D, "UI", b"1.2.3.40")
    + explicit(0x0020000E, "UI", b"1.2.3.41")
)


def test_a_header_holds_what_index_rules_and_results_need(tmp_path: Path) -> None:
    code, request = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "RPID2503", "RADLEX", "XR Chest 2 Views"
    request.RequestedProcedureCodeSequence = Sequence([code])
    request.AccessionNumber = "A-77"
    issuer = Dataset()
    issuer.LocalNamespaceEntityID = "RIS"
    dataset = chest_image(
        PIXELS,
        SeriesDescription="PA upright",
        StudyDescription="Chest",
        ViewPosition="PA",
        ImageLaterality="U",
        RequestedProcedurePriority="STAT",
        RequestAttributesSequence=Sequence([request]),
        IssuerOfAccessionNumberSequence=Sequence([issuer]),
        StudyDate="20260329",
        StudyTime="0203",
        TimezoneOffsetFromUTC="+0200",
        PatientBirthDate="19700101",
        PatientSex="F",
        PresentationIntentType="FOR PRESENTATION",
    )
    header = read_header(write(tmp_path / "a.dcm", dataset))
    assert (header.rows, header.columns, header.frames) == (8, 8, 1)
    assert (header.modality, header.body_part, header.view_position) == ("CR", "CHEST", "PA")
    assert (header.laterality, header.order_priority_term) == ("U", "STAT")
    assert (header.photometric, header.presentation_intent) == ("MONOCHROME2", "FOR PRESENTATION")
    study = header.study
    assert (study.accession_number, study.accession_issuer) == ("A-77", "RIS")
    assert (study.procedure_code, study.procedure_scheme) == ("RPID2503", "RADLEX")
    assert (study.study_date, study.study_time, study.utc_offset) == ("20260329", "020300", "+0200")
    assert (study.patient.name, study.patient.birth_date, study.patient.sex) == ("Test^Case", "19700101", "F")
    assert header.character_set_problem == header.problem == ""
    instance = header.instance(uri="spool:x", sha256="0" * 64)
    assert instance.has_pixels
    assert instance.sop_instance_uid == dataset.SOPInstanceUID


def test_the_views_codes_are_those_of_pydicom_s_copy_of_the_standard() -> None:
    views = codes.cid4010
    terms = {
        views.PosteroAnterior: "PA",
        views.AnteroPosterior: "AP",
        views.LateralProjection: "LATERAL",
        views.LeftLateral: "LL",
        views.RightLateral: "RL",
    }
    expected = {code.value: term for code, term in terms.items()}
    expected |= {old: expected[new] for old, new in mapping["SRT"].items() if new in expected}
    expected["R-10214"] = "PA"  # what PS3.16 had for it before R-40888; dcm4che still reads and writes it
    assert expected == header_module._VIEWS


@pytest.mark.parametrize(
    ("stated", "coded", "view"),
    [
        (None, "399173006", "LL"),
        ("", "399198007", "RL"),
        (None, "R-102CD", "LATERAL"),
        ("PA", "399173006", "PA"),
        (None, "399061009", ""),  # axial
        (None, None, ""),
    ],
)
def test_the_view_is_the_position_or_else_the_term_of_its_code(
    tmp_path: Path, stated: str | None, coded: str | None, view: str
) -> None:
    dataset = chest_image(PIXELS)
    if stated is not None:
        dataset.ViewPosition = stated
    if coded is not None:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = coded, "SCT", "a view"
        dataset.ViewCodeSequence = Sequence([code])
    assert read_header(write(tmp_path / "a.dcm", dataset)).view_position == view


def test_every_public_file_ends_in_a_header_that_pydicom_agrees_with_or_in_a_reject() -> None:
    read = 0
    for path in public_files():
        try:
            header = read_header(path)
        except Reject:
            continue
        dataset = dcmread(path, stop_before_pixels=True, force=True)
        assert header.study_instance_uid == dataset.StudyInstanceUID
        assert header.sop_instance_uid == dataset.SOPInstanceUID
        assert header.modality == (dataset.get("Modality") or "")
        if header.frames:
            assert (header.rows, header.columns) == (dataset.Rows, dataset.Columns)
            stated = str(dataset.get("NumberOfFrames") or 1)
            assert header.frames == (int(stated) if stated.isdigit() else 1)
        else:
            assert "PixelData" not in dcmread(path, force=True) or not dataset.get("Rows")
        read += 1
    assert read > 120


@pytest.mark.parametrize("missing", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_an_instance_without_a_uid_is_rejected_with_its_name(tmp_path: Path, missing: str) -> None:
    path = write(tmp_path / "a.dcm", chest_image(PIXELS, study="s", **dict[str, Any]({missing: None})))
    with pytest.raises(Reject, match="UID is missing"):
        read_header(path)


def test_a_uid_that_is_a_path_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(PREFIX + UIDS.replace(b"1.2.3.40", b"../../ab"))
    with pytest.raises(Reject, match="is not a UID"):
        read_header(path)


def test_objects_without_pixels_have_no_frames(tmp_path: Path) -> None:
    path = tmp_path / "sr.dcm"
    path.write_bytes(PREFIX + UIDS + explicit(0x00280010, "US", b"\x00\x02") + explicit(0x00280011, "US", b"\x00\x02"))
    header = read_header(path)
    assert (header.rows, header.columns, header.frames) == (0, 0, 0)


@pytest.mark.parametrize("depth", [1, 20, 64])
def test_sequences_nested_as_deep_as_any_object_has_them_are_read_past(tmp_path: Path, depth: int) -> None:
    opening = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closing = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    path = tmp_path / "deep.dcm"
    path.write_bytes(PREFIX + UIDS[:50] + opening * depth + closing * depth + UIDS[50:])
    assert read_header(path).study_instance_uid == "1.2.3.40"


def test_a_sequence_that_never_closes_is_a_value_with_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "open.dcm"
    path.write_bytes(PREFIX + UIDS + b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff")
    assert read_header(path).problem == "the file ends inside its header"


def test_a_value_that_claims_gigabytes_is_a_value_with_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "long.dcm"
    path.write_bytes(PREFIX + UIDS + b"\x40\x00\x75\x02UN\0\0\xf0\xff\xff\xff" + b"abc")
    assert read_header(path).problem == "the file ends inside its header"


def test_more_elements_than_any_object_has_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "many.dcm"
    path.write_bytes(PREFIX + UIDS + b"".join(explicit(0x00310000 + n % 65536, "LO", b"") for n in range(60_000)))
    with pytest.raises(Reject, match="more than 50000 elements"):
        read_header(path)


def test_a_bomb_in_a_deflated_file_is_rejected(tmp_path: Path) -> None:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    chunk = bytes(1 << 20)
    name = explicit(0x00420011, "OB", b"")[:-4] + struct.pack("<I", 80 << 20)  # zeros would be elements too many
    bomb = deflater.compress(name) + b"".join(deflater.compress(chunk) for _ in range(80)) + deflater.flush()
    syntax = explicit(0x00020010, "UI", b"1.2.840.10008.1.2.1.99")
    path = tmp_path / "bomb.dcm"
    path.write_bytes(bytes(128) + b"DICM" + syntax + bomb)
    with pytest.raises(Reject, match="deflated header is larger"):
        read_header(path)


def test_frames_and_numbers_out_of_all_bounds_stay_in_bounds(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    body = explicit(0x00200013, "IS", b"99999999999 ") + explicit(0x00280008, "IS", b"9999999999")
    size = explicit(0x00280010, "US", b"\xff\xff") + explicit(0x00280011, "US", b"\xff\xff")
    path.write_bytes(PREFIX + UIDS + body + size)
    header = read_header(path)
    assert header.instance_number is None
    path.write_bytes(PREFIX + UIDS + body + size + explicit(0x7FE00010, "OB", b"\0\0"))
    with pytest.raises(Reject, match="claims 65535 x 65535 pixels"):
        read_header(path)


@pytest.mark.parametrize("content", [b"", b"DICM", bytes(132), bytes(128) + b"DICM", b"\x89PNG" * 100])
def test_what_is_no_dicom_file_is_rejected(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(Reject):
        read_header(path)


@given(damage=st.binary(max_size=40), at=st.integers(0, 1200), cut=st.integers(0, 1200))
def test_any_damage_ends_in_a_header_or_a_reject(
    tmp_path_factory: pytest.TempPathFactory, damage: bytes, at: int, cut: int
) -> None:
    path = tmp_path_factory.mktemp("damage") / "a.dcm"
    good = bytearray(write(path, chest_image(PIXELS, WindowCenter=5, WindowWidth=9)).read_bytes())
    good[at : at + len(damage)] = damage
    path.write_bytes(bytes(good[: len(good) - cut]))
    with suppress(Reject):
        assert read_header(path).study_instance_uid


@pytest.mark.parametrize(
    ("declared", "raw", "text"),
    [
        # PS3.5 H.3, I.2, K, J: the standard's own examples
        (b"\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B", "Yamada^Tarou=山田^太郎"),
        (
            b"ISO 2022 IR 13\\ISO 2022 IR 87",
            b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J",
            "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎",
        ),
        (
            b"\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
            "Hong^Gildong=洪^吉洞=홍^길동",
        ),
        (b"GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong=王^小东"),
        (b"GBK", "王^小东".encode("gbk"), "王^小东"),
        (b"ISO_IR 192", "Wang^XiaoDong=王^小東".encode(), "Wang^XiaoDong=王^小東"),
        (b"ISO_IR 100", b"Buc^J\xe9r\xf4me", "Buc^Jérôme"),
        (b"ISO_IR 144", "Люксембург".encode("iso8859_5"), "Люксембург"),
        (b"iso-ir 100", b"\xc4neas", "Äneas"),
        # 秋 is 0x3D29 in JIS: its first byte is the `=` that separates component groups
        (b"\\ISO 2022 IR 87", b"Aki=\x1b$B=)\x1b(B", "Aki=秋"),
    ],
)
def test_text_is_decoded_as_declared(declared: bytes, raw: bytes, text: str) -> None:
    decoder = TextDecoder.of(declared)
    assert decoder.text(raw) == text
    assert decoder.problem == ""


@pytest.mark.parametrize(
    ("declared", "raw", "text", "problem"),
    [
        (b"ISO_IR 192", b"M\xfcller", "M�ller", "not valid in the declared character set ISO_IR 192"),
        (b"", b"M\xfcller", "M�ller", "no character set for it is declared"),
        (b"", "Müller".encode(), "Müller", "no character set for it is declared"),
        (b"ISO_IR 100", "Müller".encode(), "MÃ¼ller", "looks like UTF-8"),
        (b"KOI-8", b"\xd0\xd1", "��", "'KOI-8' is not known"),
        (b"GB18030", b"\xff\xff", "��", "not valid in the declared character set GB18030"),
        (b"\\ISO 2022 IR 87", b"\x1b$)C\xfb\xf3", "洪", "ISO-IR 149, which is not declared"),
        (b"\\ISO 2022 IR 87", b"\x1b%Gx", "%Gx", "escape sequence of no DICOM character set"),
    ],
)
def test_a_wrong_declaration_gives_replacement_characters_and_a_problem_without_the_text(
    declared: bytes, raw: bytes, text: str, problem: str
) -> None:
    decoder = TextDecoder.of(declared)
    assert decoder.text(raw) == text
    assert problem in decoder.problem
    assert "ller" not in decoder.problem


@given(declared=st.binary(max_size=40), raw=st.binary(max_size=80))
def test_no_bytes_break_the_text_decoder(declared: bytes, raw: bytes) -> None:
    text = TextDecoder.of(declared).text(raw)
    assert len(text) <= 256
    assert not any(ord(character) < 32 for character in text)


def test_a_wrongly_declared_name_is_flagged_and_the_file_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    name = "王^小东".encode("gbk")
    charset = explicit(0x00080005, "CS", b"ISO_IR 192")
    path.write_bytes(PREFIX + charset + UIDS + explicit(0x00100010, "PN", name))
    before = path.read_bytes()
    header = read_header(path)
    assert "ISO_IR 192" in header.character_set_problem
    assert "�" in header.study.patient.name
    assert path.read_bytes() == before
