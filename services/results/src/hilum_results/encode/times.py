"""Local times with their offset, for each format. Every instant is an aware datetime; the zone is the site's."""

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from hilum.domain.results import Result
from hilum.domain.study import StudyHeader

_OFFSET = re.compile(r"([+-])(\d\d)(\d\d)")
_DATE = re.compile(r"\d{8}")
_TIME = re.compile(r"(\d\d)(\d\d)?(\d\d)?(?:\.(\d{1,6}))?")


def offset_text(instant: datetime) -> str:
    """`+HHMM` of an aware datetime."""
    return instant.strftime("%z")[:5]


def parse_offset(text: str) -> tzinfo | None:
    """The zone of Timezone Offset From UTC, or None when the text is not one (PS3.3 C.12.1.1.8: -1200 to +1400)."""
    match = _OFFSET.fullmatch(text.strip())
    if match is None:
        return None
    delta = timedelta(hours=int(match[2]), minutes=int(match[3])) * (-1 if match[1] == "-" else 1)
    return timezone(delta) if timedelta(hours=-12) <= delta <= timedelta(hours=14) else None


def in_site_zone(instant: datetime, result: Result) -> datetime:
    """An instant in the site's own zone, with the offset that held there at that moment."""
    return instant.astimezone(ZoneInfo(result.time_zone))


def in_object_zone(instant: datetime, result: Result) -> datetime:
    """An instant in the one offset that an SR can state.

    Timezone Offset From UTC holds for every date and time of the object (PS3.3 C.12.1.1.8), the copied Study Date and
    Time included: where the images state an offset the whole SR uses it, else the site's offset at creation.
    """
    zone = parse_offset(result.header.utc_offset) or in_site_zone(result.created_at, result).tzinfo
    if isinstance(zone, ZoneInfo):
        offset = in_site_zone(result.created_at, result).utcoffset() or timedelta(0)
        zone = timezone(offset)
    return instant.astimezone(zone)


def valid_date(text: str) -> str:
    """`YYYYMMDD` when it is a real date, else empty."""
    text = text.strip()
    if _DATE.fullmatch(text) is None:
        return ""
    try:
        datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC)
    except ValueError:
        return ""
    return text


def valid_time(text: str) -> str:
    """A DICOM time (TM) when it is a real one, else empty."""
    match = _TIME.fullmatch(text.strip())
    if match is None or int(match[1]) > 23 or int(match[2] or 0) > 59 or int(match[3] or 0) > 60:
        return ""
    return text.strip()


def study_instant(header: StudyHeader, time_zone: str) -> datetime | None:
    """When the study was made, aware; None when the images do not say it to the minute.

    In the hour that occurs twice the earlier one is taken, as Python's `fold=0` does.
    """
    date, match = valid_date(header.study_date), _TIME.fullmatch(valid_time(header.study_time))
    if not date or match is None or match[2] is None:
        return None
    second = min(int(match[3] or 0), 59)
    day = datetime.strptime(date, "%Y%m%d")  # noqa: DTZ007 - the zone follows on the next line
    zone = parse_offset(header.utc_offset) or ZoneInfo(time_zone)
    return day.replace(hour=int(match[1]), minute=int(match[2]), second=second, tzinfo=zone)


def hl7_time(instant: datetime) -> str:
    """`YYYYMMDDHHMMSS+ZZZZ` (HL7 2.5.1 2.A.22 DTM)."""
    return instant.strftime("%Y%m%d%H%M%S") + offset_text(instant)


def fhir_time(instant: datetime) -> str:
    """`YYYY-MM-DDThh:mm:ss+zz:zz`."""
    return instant.isoformat(timespec="seconds")
