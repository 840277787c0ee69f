"""Runs every encoder once, so that the first real result doesn't pay for imports and caches (half a second)."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from hilum.domain.findings import Finding, Findings
from hilum.domain.geometry import PixelBox
from hilum.domain.identity import Patient, derive_uid
from hilum.domain.inference import ImageReference, ModelIdentity
from hilum.domain.results import Format, Result, state_of
from hilum.domain.study import StudyHeader


def warm_up(encoders: Mapping[Format, Callable[[Result], bytes]]) -> None:
    """Encodes a result about nobody and throws it away."""
    uid = derive_uid("warm-up")
    image = ImageReference(uid, uid, "1.2.840.10008.5.1.4.1.1.1", "", frame=1, frames=1, rows=10, columns=10)
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    findings = Findings(
        request_id="0" * 32,
        study_instance_uid=uid,
        revision=1,
        model=ModelIdentity("warm-up", "0", "0" * 64, simulation=True, disclaimer="warm-up"),
        prompt_digest="0" * 64,
        images=(image,),
        findings=(Finding("Nodule", PixelBox(1, 1, 2, 2), image, 0.5, False, uid),),
        dropped=(),
        report="warm-up",
        ungrounded=(),
        answers=(),
        produced_at=moment,
    )
    header = StudyHeader(study_instance_uid=uid, patient=Patient())
    result = Result(header, findings, state_of(findings), created_at=moment, time_zone="UTC")
    for encode in encoders.values():
        encode(result)
