"""What each page shows, as values: read from the ledger in one view, ordered by the domain, worded for people."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from hilum.adapters.sql import ledger
from hilum.adapters.sql.ledger_detail import images_of
from hilum.adapters.sql.ledger_values import (
    DeadLetterRow,
    ImageRow,
    QuarantineRow,
    ResultRow,
    RevisionRow,
    StudyDetail,
    StudyRow,
)
from hilum.domain.results import AiState, StudyState
from hilum.domain.worklist import Limits, Place, reading_order
from hilum_console.pictures import Pictures
from hilum_console.snapshot import Snapshot
from hilum_console.timeline import Step, steps

_ASPECT_IMAGES = 64  # a header is read for so many images of a page at most; the model is never shown more


@dataclass(frozen=True, slots=True)
class Counts:
    """How many studies there are of each kind that a reader asks about, and what waits for imaging IT."""

    studies: int
    overdue: int
    findings: int
    moving: int
    without_ai: int
    parked: int
    quarantine: int
    dead_letters: int


@dataclass(frozen=True, slots=True)
class ListPage:
    rows: tuple[tuple[Place, StudyRow], ...]
    counts: Counts
    simulations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """An image of the viewer. `aspect`: height of a pixel divided by its width. `first_frame` counts from 1."""

    row: ImageRow
    aspect: float
    first_frame: int
    asked: bool
    boxes: int


@dataclass(frozen=True, slots=True)
class StudyPage:
    detail: StudyDetail
    place: Place
    total: int
    revision: RevisionRow | None
    result: ResultRow | None
    images: tuple[Shown, ...]
    other_objects: int
    timelines: tuple[tuple[RevisionRow, tuple[Step, ...]], ...]


@dataclass(frozen=True, slots=True)
class TroublePage:
    quarantine: tuple[QuarantineRow, ...]
    dead_letters: tuple[DeadLetterRow, ...]


def places(rows: Sequence[StudyRow], limits: Limits, now: datetime) -> tuple[tuple[Place, StudyRow], ...]:
    by_uid = {row.study_uid: row for row in rows}
    order = reading_order([ledger.worklist_entry(row) for row in rows], limits, now=now)
    return tuple((place, by_uid[place.entry.study_instance_uid]) for place in order)


def _place_of(own: StudyRow, snapshot: Snapshot, limits: Limits, now: datetime) -> tuple[Place, int]:
    """The study's place and how many there are; its own row may be newer than the snapshot."""
    rows = [own, *(row for row in snapshot.rows if row.study_uid != own.study_uid)]
    ordered = places(rows, limits, now)
    return next(place for place, row in ordered if row is own), len(ordered)


def list_page(snapshot: Snapshot, limits: Limits, now: datetime) -> ListPage:
    rows = snapshot.rows
    ordered = places(rows, limits, now)
    counts = Counts(
        studies=len(rows),
        overdue=sum(place.overdue for place, _ in ordered),
        findings=sum(bool(row.findings or row.ungrounded) for row in rows),
        moving=sum(isinstance(row.state, StudyState) for row in rows),
        without_ai=sum(row.state in (AiState.NOT_APPLICABLE, AiState.FAILED, AiState.TOO_LATE) for row in rows),
        parked=sum(any(d.state == "parked" for d in row.deliveries) for row in rows),
        quarantine=snapshot.quarantine,
        dead_letters=snapshot.dead_letters,
    )
    simulations = {row.model.disclaimer for row in rows if row.model is not None and row.model.simulation}
    return ListPage(ordered, counts, tuple(sorted(simulations)))


def list_json(snapshot: Snapshot, limits: Limits, now: datetime) -> dict[str, Any]:
    page = list_page(snapshot, limits, now)
    return {
        "now": now.isoformat(),
        "studies": [{**row.to_json(), "place": _place_json(place)} for place, row in page.rows],
        "quarantine": page.counts.quarantine,
        "dead_letters": page.counts.dead_letters,
    }


def study_page(
    connection: Connection, snapshot: Snapshot, pictures: Pictures, study_uid: str, limits: Limits, now: datetime
) -> StudyPage | None:
    detail = ledger.show_study(connection, study_uid)
    if detail is None:
        return None
    place, total = _place_of(detail.row, snapshot, limits, now)
    revision = detail.latest
    return StudyPage(
        detail=detail,
        place=place,
        total=total,
        revision=revision,
        result=revision.result if revision else None,
        images=_shown(detail, revision.result if revision else None, pictures),
        other_objects=sum(image.frames == 0 for image in detail.images),
        timelines=tuple((item, steps(item)) for item in detail.revisions),
    )


def study_json(
    connection: Connection, snapshot: Snapshot, study_uid: str, limits: Limits, now: datetime
) -> dict[str, Any] | None:
    detail = ledger.show_study(connection, study_uid)
    if detail is None:
        return None
    place, _ = _place_of(detail.row, snapshot, limits, now)
    return {**detail.to_json(), "place": _place_json(place)}


def trouble_page(connection: Connection) -> TroublePage:
    return TroublePage(tuple(ledger.list_quarantine(connection)), tuple(ledger.list_dead_letters(connection)))


def image_of(connection: Connection, study_uid: str, sop_instance_uid: str) -> ImageRow | None:
    """The image with pixels, only if it belongs to that study."""
    for image in images_of(connection, study_uid):
        if image.sop_instance_uid == sop_instance_uid and image.frames > 0:
            return image
    return None


def _shown(detail: StudyDetail, result: ResultRow | None, pictures: Pictures) -> tuple[Shown, ...]:
    """Images with pixels; those with findings first, then those the model was shown, then the rest."""
    frames = {image.sop_instance_uid: image.frame for image in result.images} if result else {}
    boxes: dict[str, list[int]] = {}
    for finding in result.findings if result else ():
        boxes.setdefault(finding.sop_instance_uid, []).append(finding.frame)
    with_pixels = [image for image in detail.images if image.frames > 0]
    with_pixels.sort(key=lambda i: (i.sop_instance_uid not in boxes, i.sop_instance_uid not in frames))
    return tuple(
        Shown(
            row=image,
            aspect=pictures.aspect(image.uri) if number < _ASPECT_IMAGES else 1.0,
            first_frame=boxes.get(image.sop_instance_uid, [frames.get(image.sop_instance_uid, 1)])[0],
            asked=image.sop_instance_uid in frames,
            boxes=len(boxes.get(image.sop_instance_uid, ())),
        )
        for number, image in enumerate(with_pixels)
    )


def _place_json(place: Place) -> dict[str, Any]:
    return {
        "position": place.position,
        "priority": place.priority.value,
        "overdue": place.overdue,
        "wait_s": place.wait.total_seconds(),
        "reason": place.reason,
    }
