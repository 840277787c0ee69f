"""Reads what the index, the rules and the results need of an instance, and never its pixels."""

import re
from dataclasses import dataclass
from pathlib import Path

from hilum.adapters.dicom.elements import Elements, File, opened
from hilum.adapters.dicom.precheck import check_claims
from hilum.adapters.dicom.text import TextDecoder
from hilum.domain.errors import Reject
from hilum.domain.identity import Patient
from hilum.domain.study import Instance, StudyHeader

_MAX_FRAMES = 2**31 - 1
_CODE = re.compile(r"[^A-Za-z0-9 _.+-]+")

# PS3.16 CID 4031 and its neighbours: Anatomic Region code -> defined term of Body Part Examined (PS3.16 Annex L)
_REGIONS = {
    "51185008": "CHEST",
    "T-D3000": "CHEST",
    "113345001": "ABDOMEN",
    "T-D4000": "ABDOMEN",
    "69536005": "HEAD",
    "T-D1100": "HEAD",
    "12738006": "BRAIN",
    "T-A0100": "BRAIN",
    "76752008": "BREAST",
    "T-04000": "BREAST",
    "12921003": "PELVIS",
    "T-D6000": "PELVIS",
}

# PS3.16 CID 4010 DX View: code (SNOMED CT, and SRT as older images have it) -> term of View Position. Views that change
# which question can be asked; others stay empty.
_VIEWS = {
    "272479007": "PA",
    "R-40888": "PA",
    "R-10214": "PA",
    "399348003": "AP",
    "R-10206": "AP",
    "399067008": "LATERAL",
    "R-102CD": "LATERAL",
    "399173006": "LL",
    "R-10236": "LL",
    "399198007": "RL",
    "R-10232": "RL",
}


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of one stored instance says. Every text may be empty.

    Attributes:
        rows, columns: frame size in pixels; frames: number of frames. All 0 when the object has no pixel data.
        order_priority_term: Requested Procedure Priority (0040,1003) as the sender wrote it.
        character_set_problem: why some text could not be decoded as declared, empty when all of it could; the text
            then holds U+FFFD for what is unreadable, and the file keeps its bytes.
        problem: why the header may be incomplete (the file is cut off), empty when it is whole.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    modality: str
    body_part: str
    series_description: str
    laterality: str
    view_position: str
    rows: int
    columns: int
    frames: int
    photometric: str
    presentation_intent: str
    instance_number: int | None
    order_priority_term: str
    study: StudyHeader
    character_set_problem: str = ""
    problem: str = ""

    def instance(self, *, uri: str, sha256: str) -> Instance:
        """The domain's view of this instance, stored at `uri` with the digest `sha256` (64 hex digits)."""
        return Instance(
            sop_instance_uid=self.sop_instance_uid,
            sop_class_uid=self.sop_class_uid,
            transfer_syntax_uid=self.transfer_syntax_uid,
            uri=uri,
            sha256=sha256,
            rows=self.rows,
            columns=self.columns,
            frames=self.frames,
            instance_number=self.instance_number,
            view_position=self.view_position,
            photometric=self.photometric,
            presentation_intent=self.presentation_intent,
        )


def read_header(path: Path) -> Header:
    """Reads the header of a Part 10 file; costs the same for any size of its pixels.

    Raises:
        Reject: no Part 10 file, it does not pass the pre-check, or its study, series or SOP instance UID is missing or
            no UID.
        OSError: the file cannot be opened.
    """
    with opened(path) as file:
        return header_of(file)


def header_of(file: File) -> Header:
    """As `read_header`, of a file that is open. Raises as `read_header`, but OSError."""
    dataset = file.dataset
    decoder = TextDecoder.of(dataset.raw(0x00080005, limit=256))
    rows, columns, frames = _size(file)
    request = dataset.item(0x00400275)  # Request Attributes Sequence
    study = _study(dataset, request, decoder)
    return Header(
        study_instance_uid=study.study_instance_uid,
        series_instance_uid=_uid(dataset.ascii(0x0020000E), "series instance"),
        sop_instance_uid=_uid(dataset.ascii(0x00080018) or file.meta.ascii(0x00020003), "SOP instance"),
        sop_class_uid=_uid(dataset.ascii(0x00080016) or file.meta.ascii(0x00020002), "SOP class"),
        transfer_syntax_uid=file.transfer_syntax_uid,
        modality=_code(dataset.ascii(0x00080060)),
        body_part=_body_part(dataset),
        series_description=decoder.text(dataset.raw(0x0008103E)),
        laterality=_code(dataset.ascii(0x00200062) or dataset.ascii(0x00200060)),
        view_position=_view(dataset),
        rows=rows,
        columns=columns,
        frames=frames,
        photometric=_code(dataset.ascii(0x00280004)),
        presentation_intent=_code(dataset.ascii(0x00080068)),
        instance_number=_number(dataset),
        order_priority_term=_code(dataset.ascii(0x00401003) or (request.ascii(0x00401003) if request else "")),
        study=study,
        character_set_problem=decoder.problem,
        problem="the file ends inside its header" if dataset.cut_off else "",
    )


def _size(file: File) -> tuple[int, int, int]:
    """Rows, columns, frames; zeros for an object without pixel data.

    Raises:
        Reject: they claim more than any image has, or more frames than there are bytes.
    """
    dataset = file.dataset
    rows, columns = dataset.unsigned(0x00280010) or 0, dataset.unsigned(0x00280011) or 0
    if not rows or not columns or (file.pixel_data is None and not dataset.cut_off):
        return 0, 0, 0
    frames = min(max(dataset.integer(0x00280008) or 1, 1), _MAX_FRAMES)
    pixels = file.pixel_data
    if pixels is not None:
        check_claims(
            rows=rows,
            columns=columns,
            frames=frames,
            encapsulated=pixels.undefined_length,
            pixel_bytes=file.pixel_bytes,
        )
    return rows, columns, frames


def _study(dataset: Elements, request: Elements | None, decoder: TextDecoder) -> StudyHeader:
    def text(tag: int) -> str:
        return decoder.text(dataset.raw(tag))

    def ordered(tag: int) -> str:
        return text(tag) or (decoder.text(request.raw(tag)) if request else "")

    code, scheme, meaning = _procedure(dataset, request, decoder)
    return StudyHeader(
        study_instance_uid=_uid(dataset.ascii(0x0020000D), "study instance"),
        patient=Patient(
            patient_id=text(0x00100020),
            issuer=text(0x00100021),
            name=text(0x00100010),
            birth_date=_date(dataset.ascii(0x00100030)),
            sex=_sex(dataset.ascii(0x00100040)),
        ),
        accession_number=ordered(0x00080050),
        accession_issuer=_issuer(dataset, decoder) or (_issuer(request, decoder) if request else ""),
        study_id=text(0x00200010),
        study_date=_date(dataset.ascii(0x00080020)),
        study_time=_time(dataset.ascii(0x00080030)),
        study_description=text(0x00081030),
        referring_physician=text(0x00080090),
        placer_order_number=ordered(0x00402016),
        filler_order_number=ordered(0x00402017),
        procedure_code=code,
        procedure_meaning=meaning,
        procedure_scheme=scheme,
        utc_offset=_offset(dataset.ascii(0x00080201)),
    )


def _procedure(dataset: Elements, request: Elements | None, decoder: TextDecoder) -> tuple[str, str, str]:
    """Code, scheme and meaning of what was ordered, else of what was performed."""
    places = [
        request.item(0x00321064) if request else None,  # Requested Procedure Code Sequence
        dataset.item(0x00321064),
        dataset.item(0x00081032),  # Procedure Code Sequence
    ]
    for item in places:
        if item is None:
            continue
        code = decoder.text(item.raw(0x00080100)) or decoder.text(item.raw(0x00080119))
        if code:
            return code, decoder.text(item.raw(0x00080102)), decoder.text(item.raw(0x00080104))
    return "", "", ""


def _issuer(dataset: Elements, decoder: TextDecoder) -> str:
    item = dataset.item(0x00080051)  # Issuer of Accession Number Sequence
    return (decoder.text(item.raw(0x00400031)) or decoder.text(item.raw(0x00400032))) if item else ""


def _body_part(dataset: Elements) -> str:
    """Body Part Examined, else the term of the Anatomic Region that DX images carry instead (PS3.3 C.8.11.2)."""
    stated = _code(dataset.ascii(0x00180015))
    region = None if stated else dataset.item(0x00082218)
    return _REGIONS.get(region.ascii(0x00080100), "") if region else stated


def _view(dataset: Elements) -> str:
    """View Position, else the term of the View Code that DX images carry besides or instead (PS3.3 C.8.11.5)."""
    stated = _code(dataset.ascii(0x00185101))
    coded = None if stated else dataset.item(0x00540220)
    return _VIEWS.get(coded.ascii(0x00080100), "") if coded else stated


def _uid(text: str, what: str) -> str:
    """Senders with leading zeros in a component exist, so this is wider than PS3.5 9.1; nothing but digits and dots."""
    if not text:
        raise Reject(f"the {what} UID is missing")
    if not re.fullmatch(r"[0-9][0-9.]{0,63}", text, re.ASCII):
        raise Reject(f"the {what} UID is not a UID")
    return text


def _code(text: str) -> str:
    """A code string of at most 32 characters, upper case, nothing in it that a log or page would mind."""
    return _CODE.sub("", text.upper())[:32].strip()


def _number(dataset: Elements) -> int | None:
    number = dataset.integer(0x00200013)
    return number if number is not None and abs(number) <= _MAX_FRAMES else None


def _date(text: str) -> str:
    text = text.replace(".", "")  # PS3.5 6.2 note: ACR-NEMA wrote YYYY.MM.DD
    match = re.fullmatch(r"\d{4}(\d{2})(\d{2})", text, re.ASCII)
    return text if match and 1 <= int(match.group(1)) <= 12 and 1 <= int(match.group(2)) <= 31 else ""


def _time(text: str) -> str:
    """`HHMMSS[.FFFFFF]`; what is missing of minutes and seconds counts as zero."""
    match = re.fullmatch(r"(\d{2}):?(\d{2})?:?(\d{2})?(\.\d{1,6})?", text, re.ASCII)
    if match is None:
        return ""
    hours, minutes, seconds = match.group(1), match.group(2) or "00", match.group(3) or "00"
    if int(hours) > 23 or int(minutes) > 59 or int(seconds) > 60:
        return ""
    return hours + minutes + seconds + (match.group(4) or "" if match.group(3) else "")


def _sex(text: str) -> str:
    return text.upper() if text.upper() in {"M", "F", "O"} else ""


def _offset(text: str) -> str:
    match = re.fullmatch(r"[+-](\d{2})(\d{2})", text, re.ASCII)
    return text if match and int(match.group(1)) <= 14 and int(match.group(2)) <= 59 else ""
