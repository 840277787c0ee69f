"""Times carry the site's zone; the night of the clock change (Berlin, 25 October 2026: 03:00+02:00 is 02:00+01:00)."""

import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pydicom
import pytest

from hilum.domain.results import Result
from hilum.testing import results as samples
from hilum_results.encode import fhir, oru, sr
from hilum_results.encode.times import study_instant

BEFORE, AFTER = datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, 30, tzinfo=UTC)


def result_at(moment: datetime, **header: Any) -> Result:
    of = replace(samples.findings([], images=[samples.image()]), produced_at=moment)
    return samples.result(of, created_at=moment, header=replace(samples.HEADER, **header))


@pytest.mark.parametrize(("moment", "offset"), [(BEFORE, "+0200"), (AFTER, "+0100")])
def test_half_past_two_occurs_twice_and_each_format_says_which(moment: datetime, offset: str) -> None:
    result = result_at(moment)
    report = pydicom.dcmread(io.BytesIO(sr.encode(result)))
    assert (report.ContentDate, report.ContentTime, report.TimezoneOffsetFromUTC) == ("20261025", "023000", offset)
    issued = next(
        e["resource"]["issued"]
        for e in json.loads(fhir.encode(result))["entry"]
        if e["resource"]["resourceType"] == "DiagnosticReport"
    )
    assert issued == f"2026-10-25T02:30:00{offset[:3]}:{offset[3:]}"
    assert oru.encode(result).split(b"|")[6].decode() == f"20261025023000{offset}"


def test_the_sr_uses_the_images_own_offset_because_study_time_is_copied_from_them() -> None:
    report = pydicom.dcmread(io.BytesIO(sr.encode(result_at(AFTER, utc_offset="+0200", study_time="022000"))))
    assert report.TimezoneOffsetFromUTC == "+0200"
    assert (report.StudyTime, report.ContentTime) == ("022000", "033000")


def test_an_impossible_offset_in_the_images_is_not_used() -> None:
    report = pydicom.dcmread(io.BytesIO(sr.encode(result_at(AFTER, utc_offset="+9900"))))
    assert report.TimezoneOffsetFromUTC == "+0100"


def test_a_study_time_without_an_offset_is_in_the_sites_zone() -> None:
    header = replace(samples.HEADER, study_date="20260701", study_time="083000")
    instant = study_instant(header, "Europe/Berlin")
    assert instant is not None
    assert instant.isoformat() == "2026-07-01T08:30:00+02:00"


@pytest.mark.parametrize(("date", "time"), [("", "080000"), ("20260230", "0800"), ("20260701", ""), ("20260701", "8")])
def test_an_incomplete_or_impossible_study_time_is_no_instant(date: str, time: str) -> None:
    assert study_instant(replace(samples.HEADER, study_date=date, study_time=time), "UTC") is None
