"""What each page shows, as values: read from the ledger in one view, ordered by the domain, worded for people."""

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


PAGE_ROWS = 100
"""Studies on one page of a list."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many studies there are of each kind that a reader asks about, and what waits for imaging IT.

    Attributes:
        listed: on the reading list; `overdue` to `without_ai` count among these.
        studies: of all that ever arrived.
        parked: of all, those with a delivery that waits for a person.
    """

    listed: int
    studies: int
    overdue: int
    findings: int
    moving: int
    without_ai: int
    parked: int
    quarantine: int
    dead_letters: int


@dataclass(frozen=True, slots=True)
class Part:
    """Page `number`, from 1, of `of` pages, each of up to `PAGE_ROWS` studies."""

    number: int
    of: int

    @classmethod
    def chosen(cls, number: int, rows: int) -> "Part":
        """The asked page, or the nearest there is."""
        of = max(-(-rows // PAGE_ROWS), 1)
        return cls(min(max(number, 1), of), of)

    @property
    def start(self) -> int:
        return (self.number - 1) * PAGE_ROWS


@dataclass(frozen=True, slots=True)
class ListPage:
    rows: tuple[tuple[Place, StudyRow], ...]
    part: Part
    counts: Counts
    simulations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AllPage:
    """All studies, newest images first."""

    rows: tuple[StudyRow, ...]
    part: Part
    studies: int


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
    """`place` is None for a study that left the reading list; `total` counts those on it."""

    detail: StudyDetail
    place: Place | None
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


def _place_of(own: StudyRow, snapshot: Snapshot, limits: Limits, now: datetime) -> tuple[Place | None, int]:
    """The study's place and how many there are; its own row may be newer than the snapshot."""
    others = [standing.entry for standing in snapshot.standings if standing.study_uid != own.study_uid]
    if len(others) == len(snapshot.standings) and not isinstance(own.state, StudyState):
        return None, len(others)
    order = reading_order([ledger.worklist_entry(own), *others], limits, now=now)
    return next(place for place in order if place.entry.study_instance_uid == own.study_uid), len(order)


def list_page(connection: Connection, snapshot: Snapshot, limits: Limits, now: datetime, number: int = 1) -> ListPage:
    """One page of the reading list; the counts are of the whole."""
    standings = snapshot.standings
    order = reading_order([standing.entry for standing in standings], limits, now=now)
    part = Part.chosen(number, len(order))
    shown = order[part.start : part.start + PAGE_ROWS]
    rows = snapshot.rows(connection, [place.entry.study_instance_uid for place in shown])
    without_ai = (AiState.NOT_APPLICABLE, AiState.FAILED, AiState.TOO_LATE)
    counts = Counts(
        listed=len(standings),
        studies=snapshot.studies,
        overdue=sum(place.overdue for place in order),
        findings=sum(standing.findings > 0 for standing in standings),
        moving=sum(standing.state is None for standing in standings),
        without_ai=sum(standing.state in without_ai for standing in standings),
        parked=snapshot.parked,
        quarantine=snapshot.quarantine,
        dead_letters=snapshot.dead_letters,
    )
    simulations = {row.model.disclaimer for row in rows if row.model is not None and row.model.simulation}
    return ListPage(tuple(zip(shown, rows, strict=True)), part, counts, tuple(sorted(simulations)))


def all_page(connection: Connection, number: int = 1) -> AllPage:
    count = ledger.count_studies(connection)
    part = Part.chosen(number, count)
    rows = ledger.list_studies(connection, limit=PAGE_ROWS, offset=part.start)
    return AllPage(tuple(rows), part, count)


def list_json(
    connection: Connection, snapshot: Snapshot, limits: Limits, now: datetime, number: int = 1
) -> dict[str, Any]:
    page = list_page(connection, snapshot, limits, now, number)
    return {
        "now": now.isoformat(),
        "studies": [{**row.to_json(), "place": _place_json(place)} for place, row in page.rows],
        "page": page.part.number,
        "pages": page.part.of,
        "on_the_list": page.counts.listed,
        "all_studies": page.counts.studies,
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
    return {**detail.to_json(), "place": _place_json(place) if place else None}


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
