"""The demo: sample studies sent as a modality would, and what became of them."""

import secrets
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from sqlalchemy import Engine

from hilum.adapters.sql.database import database_path, open_database, reading
from hilum.adapters.sql.ledger import show_study, study_rows
from hilum.adapters.sql.ledger_values import StudyDetail, StudyRow
from hilum.adapters.sql.reading_list import reading_list
from hilum.domain.errors import Busy
from hilum.domain.results import AiState, DeliveryState, Format
from hilum.domain.worklist import Place, reading_order
from hilum_standalone.commands.studies import findings_text
from hilum_standalone.plan import DEMO_CALLING_AE, DEMO_DESTINATIONS, Plan, dicom_host
from hilum_standalone.samples import SampleStudy, sample_studies
from hilum_standalone.samples.catalogue import count
from hilum_standalone.sender import Item, Outcome, SendError, Target, inspect, send

_PATIENCE_S = 420.0
_WITH_RESULT = (AiState.POSITIVE, AiState.NEGATIVE)


class DemoRun(threading.Thread):
    """Sends, waits and prints on its own thread. `exit_code` is None until it is done, then 0 or 1."""

    def __init__(self, plan: Plan, console: Console, stop: threading.Event) -> None:
        super().__init__(name="demo", daemon=True)
        self.exit_code: int | None = None
        self._plan = plan
        self._console = console
        self._stopping = stop

    def run(self) -> None:
        engine = open_database(database_path(self._plan.data))
        try:
            studies = self._send()
            rows = self._wait(engine, studies)
            if not self._stopping.is_set():
                self._report(engine, studies)
                self.exit_code = 0 if len(rows) == len(studies) and all(went_well(row) for row in rows) else 1
        except SendError as error:
            self._console.print(f"The demo could not send: {error}", markup=False)
            self.exit_code = 1
        except BaseException:
            self.exit_code = 1
            raise
        finally:
            engine.dispose()

    def _send(self) -> list[SampleStudy]:
        """Makes and sends one study after the other; new UIDs in every run."""
        plan = self._plan
        target = Target(plan.site.ae_title, dicom_host(plan.site), plan.dicom_port)
        sent: list[SampleStudy] = []
        with _progress(self._console) as progress:
            bar = progress.add_task("making and sending sample studies", total=count())
            samples = sample_studies(plan.data / "samples", run=secrets.token_hex(8), now=datetime.now(UTC))
            for study in samples:
                if self._stopping.is_set():
                    break
                progress.update(bar, description=f"sending {study.name}")
                _store(study, target)
                sent.append(study)
                progress.advance(bar)
            progress.update(bar, description="sample studies sent")
        return sent

    def _wait(self, engine: Engine, studies: Sequence[SampleStudy]) -> list[StudyRow]:
        """Waits for the end of each study and its deliveries to the demo's receivers; the rows as they are then."""
        uids = list({study.study_instance_uid for study in studies})
        deadline = monotonic() + _PATIENCE_S
        rows: list[StudyRow] = []
        with _progress(self._console) as progress:
            bar = progress.add_task("studies that ended and were delivered", total=len(uids))
            while not self._stopping.wait(0.3):
                try:
                    with reading(engine) as connection:
                        rows = study_rows(connection, uids)
                except Busy:
                    continue
                progress.update(bar, completed=sum(is_done(row) for row in rows))
                if (len(rows) == len(uids) and all(is_done(row) for row in rows)) or monotonic() > deadline:
                    break
        return rows

    def _report(self, engine: Engine, studies: Sequence[SampleStudy]) -> None:
        now, worklist = datetime.now(UTC), self._plan.site.worklist
        with reading(engine) as connection:
            listed = reading_list(connection, ended_since=now - worklist.keep_ended)
            details = {s.study_instance_uid: show_study(connection, s.study_instance_uid) for s in studies}
        order = reading_order([standing.entry for standing in listed], worklist.to_domain(), now=now)
        places = {place.entry.study_instance_uid: place for place in order}
        self._console.print(_table(studies, details, places))
        for source in dict.fromkeys(study.source for study in studies):
            self._console.print(f"Images: {source}", markup=False)
        models = {d.row.model.disclaimer for d in details.values() if d is not None and d.row.model is not None}
        for disclaimer in sorted(models):
            self._console.print(disclaimer, markup=False)
        received = self._plan.data / "received"
        self._console.print(f"What the receivers got: {received}/dicom, fhir, hl7", markup=False)
        self._console.print(f"Reading list: {self._plan.page}", markup=False)


def _store(study: SampleStudy, target: Target) -> None:
    """One association for the study, as a modality does.

    Raises:
        SendError: an image was not stored.
    """
    outcomes: list[Outcome] = []
    items = [item for item in map(inspect, study.files) if isinstance(item, Item)]
    send(items, target, calling=DEMO_CALLING_AE, done=outcomes.append)
    failed = [outcome for outcome in outcomes if not outcome.sent]
    if failed or len(outcomes) != len(study.files):
        words = failed[0].words if failed else "a sample can't be read"
        raise SendError(f"{study.name}: {words}")


def is_done(row: StudyRow) -> bool:
    """True when the study ended and the demo's receivers will get nothing more of it."""
    if not isinstance(row.state, AiState):
        return False
    ours = [d for d in row.deliveries if d.destination in DEMO_DESTINATIONS]
    moving = (DeliveryState.QUEUED, DeliveryState.SENDING)
    return (bool(ours) or row.state not in _WITH_RESULT) and not any(d.state in moving for d in ours)


def went_well(row: StudyRow) -> bool:
    """True when the study ended, not by a failure, and each of the demo's receivers accepted its result."""
    if row.state not in _WITH_RESULT:
        return row.state is AiState.NOT_APPLICABLE
    accepted = {d.destination for d in row.deliveries if d.state is DeliveryState.ACCEPTED}
    return accepted >= set(DEMO_DESTINATIONS)


def seconds_to_sr(detail: StudyDetail) -> float | None:
    """Seconds from the last image to the SR's acceptance by the demo's PACS."""
    latest = detail.latest
    for delivery in latest.deliveries if latest else ():
        if delivery.format is Format.SR and delivery.destination == DEMO_DESTINATIONS[0] and delivery.accepted_at:
            return (delivery.accepted_at - latest.last_received_at).total_seconds() if latest else None
    return None


def _table(studies: Sequence[SampleStudy], details: dict[str, StudyDetail | None], places: dict[str, Place]) -> Table:
    shown = Table(header_style="bold", box=None, pad_edge=False)
    for name in ("Study", "Holds", "State", "Findings, or why none", "Place", "Why there"):
        shown.add_column(name, overflow="fold")
    shown.add_column("SR after", justify="right", no_wrap=True)
    last = len(places) + 1
    for study in sorted(studies, key=lambda s: p.position if (p := places.get(s.study_instance_uid)) else last):
        detail, place = details[study.study_instance_uid], places.get(study.study_instance_uid)
        if detail is None or place is None:
            shown.add_row(Text(study.name), Text(study.holds), Text("not indexed"))
            continue
        seconds = seconds_to_sr(detail)
        cells = (
            study.name,
            study.holds,
            str(detail.state),
            findings_text(detail.row),
            f"{place.position} of {len(places)}",
            place.reason,
            f"{seconds:.1f} s" if seconds is not None else "-",
        )
        shown.add_row(*(Text(cell) for cell in cells))
    return shown


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)
