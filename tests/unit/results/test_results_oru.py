"""The ORU^R01: strict HL7 2.5.1, preliminary, escaped, the same for every resend."""

from dataclasses import replace

import hl7  # type: ignore[import-untyped]
import pytest
from hl7apy.consts import VALIDATION_LEVEL  # type: ignore[import-untyped]
from hl7apy.parser import parse_message  # type: ignore[import-untyped]

from hilum.domain.findings import Answer
from hilum.domain.identity import Patient
from hilum.domain.results import Result
from hilum.testing import results as samples
from hilum_results.encode import oru
from hilum_results.encode.oru.text import unescape

ONE = samples.image(1)
TRICKY = Patient("47&11", "WARD^1", "O'Neil|Bell^Anna\\Maria^&~^Dr^PhD=山田^太郎", "19700131", "F")


def full(patient: Patient = samples.HEADER.patient) -> Result:
    return samples.result(
        samples.findings(
            [samples.finding("Nodule", 1, on=ONE, urgent=True), samples.finding("Fractures", 2, on=ONE)],
            images=[ONE],
            report="First | line.\n\nThird ^ line & \\ ~ end.",
            answers=[Answer("Is there a fracture?", "Yes.\nOne.")],
            ungrounded=["Pleural effusion"],
        ),
        header=replace(samples.HEADER, patient=patient),
    )


def segments(result: Result, name: str) -> list[hl7.Segment]:
    return list(hl7.parse(oru.encode(result).decode()).segments(name))


@pytest.mark.parametrize("patient", [samples.HEADER.patient, TRICKY], ids=["plain", "tricky"])
@pytest.mark.parametrize("of", ["full", "none"])
def test_hl7apy_parses_and_validates_it_strictly(patient: Patient, of: str) -> None:
    result = full(patient)
    if of == "none":
        result = samples.result(samples.findings([], images=[ONE]), header=result.header)
    message = parse_message(oru.encode(result).decode(), validation_level=VALIDATION_LEVEL.STRICT)
    assert message.validate()
    assert message.name == "ORU_R01"


def test_every_result_segment_is_preliminary_and_urgent_findings_are_flagged() -> None:
    rows = segments(full(), "OBX")
    assert {str(row[11]) for row in rows} == {"P"}
    assert str(segments(full(), "OBR")[0][25]) == "P"
    flags = [str(row[8]) for row in rows if str(row[3]).startswith("121071^")]
    assert flags == ["AA", "A", "A"]
    assert str(rows[0][3]) == "113014^DICOM Study^DCM"
    assert str(rows[0][5]) == samples.HEADER.study_instance_uid


def test_report_lines_and_delimiters_come_back_as_they_were() -> None:
    row = next(r for r in segments(full(), "OBX") if str(r[3]).startswith("59776-5"))
    lines = [unescape(str(line)) for line in row[5]]
    assert "\n".join(lines) == "First | line.\n\nThird ^ line & \\ ~ end."


def test_a_name_with_every_delimiter_stays_in_its_field_with_suffix_before_prefix() -> None:
    pid = segments(full(TRICKY), "PID")[0]
    alphabetic, ideographic = pid[5]
    parts = [unescape(str(part[0] if isinstance(part, hl7.Component) else part)) for part in alphabetic]
    assert parts == ["O'Neil|Bell", "Anna\\Maria", "&~", "PhD", "Dr", "", "L", "A"]
    assert str(ideographic).startswith("山田^太郎")
    assert str(pid[7]) == "19700131"


def test_header_says_zone_charset_and_an_identity_that_does_not_change() -> None:
    header = segments(full(), "MSH")[0]
    assert str(header[7]) == "20261124150322+0100"
    assert str(header[18]) == "UNICODE UTF-8"
    assert str(header[10]) == oru.control_id(full())
    assert len(str(header[10])) <= 20
    assert str(header[11]) == "T"  # a simulation's result
    assert oru.encode(full()) == oru.encode(full())


def test_another_receiver_changes_its_two_fields_and_nothing_else() -> None:
    plain = oru.encode(full(), application="RIS", facility="A")
    other = oru.addressed(plain, application="PACS|2", facility="B")
    assert other.split(b"|")[4:6] == [b"PACS\\F\\2", b"B"]
    assert other.split(b"\r")[1:] == plain.split(b"\r")[1:]


def test_the_disclaimer_is_in_the_message() -> None:
    assert samples.NANO.disclaimer in oru.encode(full()).decode()
