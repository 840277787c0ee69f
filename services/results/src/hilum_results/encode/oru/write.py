"""The message, segment by segment (HL7 2.5.1 chapter 7)."""

import hl7  # type: ignore[import-untyped]

from hilum.domain.results import AiState, Result, describe
from hilum_results.encode import terminology as terms
from hilum_results.encode.canonical import CanonicalFinding, canonical
from hilum_results.encode.oru.text import coded, escape, person_names, physician, text_lines
from hilum_results.encode.terminology import Code
from hilum_results.encode.times import hl7_time, in_site_zone, study_instant, valid_date

STUDY = Code("113014", "DCM", "DICOM Study")
FINDINGS = Code("59776-5", "LN", "Procedure findings")
IMPRESSION = Code("19005-8", "LN", "Radiology Imaging study [Impression] (narrative)")
STUDY_CODE = Code("18748-4", "LN", "Diagnostic imaging study")
PRELIMINARY = "P"


def control_id(result: Result) -> str:
    """MSH-10, at most 20 characters; the same for every resend."""
    return result.key[:20]


def encode(result: Result, *, application: str = "", facility: str = "") -> bytes:
    """The result as one UTF-8 message, segments ended by CR; a function of its arguments alone.

    Args:
        application, facility: MSH-5 and MSH-6, the receiver.
    """
    segments = [
        _msh(result, application, facility),
        _pid(result),
        _segment("ORC", "RE", escape(result.header.placer_order_number), escape(result.header.filler_order_number)),
        _obr(result),
        _segment("NTE", "1", "L", f"{escape(result.findings.model.disclaimer.rstrip('.'))}. Made by AI; not verified."),
    ]
    when = hl7_time(in_site_zone(result.findings.produced_at, result))
    rows = _observations(result)
    segments += [_obx(number, *row, when) for number, row in enumerate(rows, start=1)]
    text = "\r".join(segments) + "\r"
    hl7.parse(text)  # raises when a segment is not one
    return text.encode("utf-8")


def addressed(message: bytes, *, application: str, facility: str) -> bytes:
    """The same message for another receiver: MSH-5 and MSH-6 replaced, nothing else touched."""
    header, _, rest = message.partition(b"\r")
    fields = header.split(b"|")
    fields[4], fields[5] = escape(application).encode(), escape(facility).encode()
    return b"|".join(fields) + b"\r" + rest


def _segment(name: str, *fields: str) -> str:
    return "|".join((name, *fields)).rstrip("|")


def _msh(result: Result, application: str, facility: str) -> str:
    # MSH-11, table 0103: T (training) keeps a simulation's results apart; MSH-18, table 0211.
    mode = "T" if result.findings.model.simulation else "P"
    created = hl7_time(in_site_zone(result.created_at, result))
    sender = ("HILUM", escape(result.institution), escape(application), escape(facility), created, "")
    rest = ("ORU^R01^ORU_R01", control_id(result), mode, "2.5.1", "", "", "AL", "NE", "", "UNICODE UTF-8")
    return "|".join(("MSH", "^~\\&", *sender, *rest))


def _pid(result: Result) -> str:
    patient = result.header.patient
    number = f"{escape(patient.patient_id)}^^^{escape(patient.issuer)}^MR" if patient.patient_id else ""
    sex = patient.sex if patient.sex in {"M", "F", "O"} else ""
    return _segment("PID", "1", "", number, "", person_names(patient.name), "", valid_date(patient.birth_date), sex)


def _obr(result: Result) -> str:
    header = result.header
    started = study_instant(header, result.time_zone)
    fields = dict.fromkeys(range(1, 26), "")
    fields[1] = "1"
    fields[2], fields[3] = escape(header.placer_order_number), escape(header.filler_order_number)
    fields[4] = coded(STUDY_CODE)
    if header.procedure_code:
        meaning = header.procedure_meaning or header.study_description or header.procedure_code
        fields[4] = coded(Code(header.procedure_code, header.procedure_scheme or "L", meaning))
    fields[7] = hl7_time(started) if started else ""
    fields[16] = physician(header.referring_physician)
    fields[18] = escape(header.accession_number)
    fields[22] = hl7_time(in_site_zone(result.created_at, result))
    fields[24] = "RAD"
    fields[25] = PRELIMINARY
    return _segment("OBR", *(fields[n] for n in range(1, 26)))


Row = tuple[str, Code, str, str, str, str]
"""OBX-2 type, OBX-3 code, OBX-4 sub-ID, OBX-5 value (encoded), OBX-6 unit, OBX-8 flag."""


def _observations(result: Result) -> list[Row]:
    findings = result.findings
    flag = "A" if result.state is AiState.POSITIVE else "N"
    rows: list[Row] = [("ST", STUDY, "S", escape(result.header.study_instance_uid), "", "")]
    for number, written in enumerate(canonical(result), start=1):
        finding = findings.findings[number - 1]
        rows += _finding(str(number), written, urgent=finding.urgent, tracking_uid=finding.tracking_uid)
    sub = len(findings.findings)
    for label in findings.ungrounded:
        sub += 1
        rows.append(("CWE", terms.FINDING, str(sub), coded(terms.finding_code(label), label), "", "A"))
        rows.append(("TX", terms.COMMENT, str(sub), "Named in the report without a region.", "", ""))
    if findings.report.strip():
        rows.append(("TX", FINDINGS, "R", text_lines(findings.report), "", flag))
    for number, answer in enumerate(findings.answers, start=1):
        question = Code(f"Q{number}", "99HILUM", answer.question)
        rows.append(("TX", question, f"Q{number}", text_lines(answer.text) or "(empty answer)", "", ""))
    for number, dropped in enumerate(findings.dropped, start=1):
        rows.append(
            ("TX", terms.COMMENT, f"D{number}", escape(f"Not reported: {dropped.text} ({dropped.reason})"), "", "")
        )
    said = f"{findings.model.disclaimer}\nMade by AI; no person has verified it."
    summary = f"AI result {result.state}: {describe(findings)}.\n{said}"
    rows.append(("TX", IMPRESSION, "I", text_lines(summary), "", flag))
    return rows


def _finding(sub: str, written: CanonicalFinding, *, urgent: bool, tracking_uid: str) -> list[Row]:
    """The rows of one finding, tied together by OBX-4."""
    box = written.box
    edges = (f"{edge:.3f}" for edge in (box.left, box.top, box.right, box.bottom))
    region = " ".join((escape(written.sop_instance_uid), str(written.frame), *edges))
    priority = terms.HIGH_PRIORITY if urgent else terms.NORMAL_PRIORITY
    return [
        (
            "CWE",
            terms.FINDING,
            sub,
            coded(terms.finding_code(written.label), written.label),
            "",
            "AA" if urgent else "A",
        ),
        ("NM", terms.CERTAINTY, sub, f"{written.certainty_percent:.2f}", coded(terms.PERCENT), ""),
        ("ST", terms.IMAGE_REGION, sub, region, "", ""),
        ("CWE", terms.PRIORITY, sub, coded(priority), "", ""),
        ("ST", terms.TRACKING_UID, sub, tracking_uid, "", ""),
    ]


def _obx(number: int, kind: str, code: Code, sub: str, value: str, unit: str, flag: str, when: str) -> str:
    return _segment(
        "OBX", str(number), kind, coded(code), sub, value, unit, "", flag, "", "", PRELIMINARY, "", "", when
    )
