"""The routes: what is read where, and how an error looks."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from sqlalchemy import Connection, Engine
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from hilum.adapters.sql import ledger
from hilum.adapters.sql.database import database_path, has_schema, is_postgresql, reading
from hilum.adapters.sql.ledger_values import StudyRow
from hilum.domain.errors import Busy, HilumError, Reject, Retry
from hilum.domain.results import Format
from hilum.domain.worklist import Place
from hilum.ports.clock import Clock
from hilum.ports.live import Live
from hilum.runtime.logs import Log
from hilum_console import pages, words
from hilum_console.changes import Changes
from hilum_console.guard import Guard
from hilum_console.pictures import Pictures
from hilum_console.settings import Settings
from hilum_console.snapshot import Snapshots

_HERE = Path(__file__).parent
_FULL_SIDE, _THUMB_SIDE = 2048, 192

DOWNLOADS = {
    "sr.dcm": (Format.SR, "application/dicom"),
    "bundle.json": (Format.FHIR, "application/fhir+json"),
    "oru.hl7": (Format.ORU, "application/hl7-v2"),
}


def templates(settings: Settings) -> Environment:
    """Everything that a template prints is escaped and cleaned; a name that doesn't exist is an error."""
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=words.clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for function in (
        words.state_badge,
        words.without_result,
        words.delivery_badge,
        words.by_state,
        words.person,
        words.dicom_date,
        words.duration,
        words.seconds,
    ):
        environment.filters[function.__name__] = function
    environment.filters["clock"] = lambda value: words.clock(value.astimezone(settings.zone))
    environment.filters["day"] = lambda value: words.day(value.astimezone(settings.zone))
    environment.globals.update(institution=settings.institution, zone=settings.zone.key)
    environment.globals.update(destinations=settings.destinations, downloads=DOWNLOADS)
    return environment


class Console:
    """The handlers of the routes, with what they need."""

    def __init__(self, settings: Settings, engine: Engine, pictures: Pictures, clock: Clock, live: Live) -> None:
        self._changes = Changes(live)
        self._settings = settings
        self._engine = engine
        self._pictures = pictures
        self._clock = clock
        self._templates = templates(settings)
        self._log = Log("hilum.console")
        self._snapshots = Snapshots(engine, keep_ended=settings.keep_ended)
        self._row_template = self._templates.get_template("row.html")
        self._rows: dict[str, tuple[StudyRow, tuple[object, ...], Markup]] = {}
        self._schema_seen = False

    def worklist(self, request: Request) -> Response:
        now, number = self._now(), _page_number(request)
        with self._reading() as connection:
            snapshot = self._snapshots.current(connection, now)
            page = pages.list_page(connection, snapshot, self._settings.limits, now, number)
        return self._html("list.html", page=page, rows=[self._row(place, row) for place, row in page.rows])

    def all_studies(self, request: Request) -> Response:
        with self._reading() as connection:
            page = pages.all_page(connection, _page_number(request))
        return self._html("all.html", page=page)

    def study(self, request: Request) -> Response:
        now = self._now()
        with self._reading() as connection:
            snapshot = self._snapshots.current(connection, now)
            uid, limits = request.path_params["uid"], self._settings.limits
            page = pages.study_page(connection, snapshot, self._pictures, uid, limits, now)
        if page is None:
            raise HTTPException(404, "No study with this UID has arrived.")
        return self._html("study.html", page=page)

    def trouble(self, _request: Request) -> Response:
        with self._reading() as connection:
            page = pages.trouble_page(connection)
        return self._html("trouble.html", page=page)

    def picture(self, request: Request) -> Response:
        """One frame as PNG; `?thumb` gives a small one."""
        uid, sop, frame = (request.path_params[name] for name in ("uid", "sop", "frame"))
        with self._reading() as connection:
            image = pages.image_of(connection, uid, sop)
        if image is None or not 1 <= frame <= image.frames:
            raise HTTPException(404, "The study has no such image.")
        side = _THUMB_SIDE if "thumb" in request.query_params else _FULL_SIDE
        return Response(self._pictures.png(image.uri, frame, longest_side=side), media_type="image/png")

    def download(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in DOWNLOADS:
            raise HTTPException(404, f"There is {', '.join(DOWNLOADS)}.")
        format, media_type = DOWNLOADS[name]
        with self._reading() as connection:
            content = ledger.encoding(connection, request.path_params["uid"], format, request.path_params["revision"])
        if content is None:
            raise HTTPException(404, "This revision has no such result.")
        disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type=media_type, headers=disposition)

    def api_studies(self, request: Request) -> Response:
        now, number = self._now(), _page_number(request)
        with self._reading() as connection:
            snapshot = self._snapshots.current(connection, now)
            return JSONResponse(pages.list_json(connection, snapshot, self._settings.limits, now, number))

    def api_study(self, request: Request) -> Response:
        now = self._now()
        with self._reading() as connection:
            snapshot = self._snapshots.current(connection, now)
            uid, limits = request.path_params["uid"], self._settings.limits
            found = pages.study_json(connection, snapshot, uid, limits, now)
        if found is None:
            raise HTTPException(404, "No study with this UID has arrived.")
        return JSONResponse(found)

    async def live(self, _request: Request) -> Response:
        return StreamingResponse(self._changes.stream(), media_type="text/event-stream")

    def health(self, _request: Request) -> Response:
        with self._reading():
            return JSONResponse({"status": "ok"})

    def failed(self, request: Request, error: Exception) -> Response:
        """An expected failure, as a page or as JSON. 503 where it passes by itself, so the page asks again."""
        if isinstance(error, HTTPException):
            status, reason = error.status_code, error.detail
            if status == 404 and reason == "Not Found":
                reason = "There is nothing at this address."
        elif isinstance(error, HilumError):
            status, reason = (415 if isinstance(error, Reject) else 503), error.reason
        else:
            self._log.error("bug", exc_info=error)
            status, reason = 500, "The console hit a bug. Its log has the place."
        if request.url.path.startswith(("/api/", "/healthz")):
            return JSONResponse({"error": reason}, status_code=status)
        if request.url.path.endswith(".png"):
            return Response(reason, status_code=status, media_type="text/plain")
        return self._html("error.html", status=status, reason=reason, code=status)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """One view of the ledger.

        Raises:
            Busy: there is no ledger yet, or it is away.
        """
        if not self._schema_seen:
            absent = not is_postgresql(self._engine) and not database_path(self._settings.data).exists()
            if absent or not has_schema(self._engine):
                raise Busy("Hilum is starting: the ledger does not exist yet.")
            self._schema_seen = True
        with reading(self._engine) as connection:
            yield connection

    def _row(self, place: Place, row: StudyRow) -> Markup:
        """The row as markup, rendered again only when something in it changed."""
        shown = (place.position, place.priority, place.overdue, place.reason, words.duration(place.wait))
        kept = self._rows.get(row.study_uid)
        if kept is None or kept[0] != row or kept[1] != shown:
            kept = (row, shown, Markup(self._row_template.render(place=place, row=row)))  # escaped by the template
            self._rows[row.study_uid] = kept
        return kept[2]

    def _html(self, name: str, *, code: int = 200, **values: Any) -> Response:
        text = self._templates.get_template(name).render(now=self._now(), **values)
        return HTMLResponse(text, status_code=code)

    def _now(self) -> datetime:
        return self._clock.now()


def _page_number(request: Request) -> int:
    """From `?page=`, 1 where it is missing or no number."""
    text = request.query_params.get("page", "")
    return int(text) if re.fullmatch("[0-9]{1,6}", text) else 1


def create(settings: Settings, engine: Engine, pictures: Pictures, clock: Clock, live: Live) -> ASGIApp:
    """The whole page. The guard stands outermost, so that even a bug's answer carries its headers."""
    console = Console(settings, engine, pictures, clock, live)
    failed: Callable[[Request, Exception], Response] = console.failed
    routes = [
        Route("/", console.worklist),
        Route("/all", console.all_studies),
        Route("/studies/{uid}", console.study),
        Route("/studies/{uid}/images/{sop}/{frame:int}.png", console.picture),
        Route("/studies/{uid}/revisions/{revision:int}/{name}", console.download),
        Route("/trouble", console.trouble),
        Route("/api/studies", console.api_studies),
        Route("/api/studies/{uid}", console.api_study),
        Route("/live", console.live),
        Route("/healthz", console.health),
        Mount("/static", StaticFiles(directory=_HERE / "static")),
    ]
    handlers: dict[Any, Any] = dict.fromkeys((HTTPException, Reject, Retry, Busy, Exception), failed)
    return Guard(Starlette(routes=routes, exception_handlers=handlers))
