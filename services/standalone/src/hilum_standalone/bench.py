"""`python -m hilum_standalone.bench`: seconds from the last C-STORE response to the SR in the PACS, split by step.

Real processes, real associations, the demo's receiver as PACS, one two-image radiograph after the other. All times are
of this machine's clock. The first study warms up and is not counted.
"""

import os
import platform
import secrets
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, sleep

import click
import numpy as np
from numpy.typing import NDArray

from hilum.adapters.sql.database import database_path, open_database, reading
from hilum.adapters.sql.ledger import show_study
from hilum.adapters.sql.ledger_values import DeliveryRow, RevisionRow, StudyDetail
from hilum.domain.identity import derive_uid
from hilum.domain.results import AiState, DeliveryState, Format
from hilum.runtime.config import Listener, Site
from hilum_modelops.generator import render
from hilum_standalone.commands.up import migrate_to_head
from hilum_standalone.folder import create, locked
from hilum_standalone.plan import DEMO_CALLING_AE, DEMO_DESTINATIONS, Plan, dicom_host, make_plan, programs
from hilum_standalone.samples import Image, Order, write
from hilum_standalone.sender import Item, Outcome, Target, inspect, send
from hilum_standalone.supervisor import Supervisor

_TARGET_S = 1.0
_PATIENCE_S = 120.0
STEPS = ("quiet time", "assembly", "routing, queue", "decode", "model", "publish", "encode", "deliver")


@dataclass(frozen=True, slots=True)
class Sample:
    """One study: seconds by step of `STEPS`, and from the last C-STORE response to the PACS's own success."""

    steps: tuple[float, ...]
    total_s: float

    @property
    def own_s(self) -> float:
        """Everything but the quiet time and the model."""
        return self.total_s - self.steps[STEPS.index("quiet time")] - self.steps[STEPS.index("model")]


def split(revision: RevisionRow, sr: DeliveryRow, *, responded_at: datetime, quiet_s: float) -> Sample:
    """The steps of one revision; they add up to the total but for the gap between a response and its journal entry."""
    job, result = revision.job, revision.result
    assert job is not None
    assert result is not None
    assert job.started_at is not None
    assert job.finished_at is not None
    assert sr.accepted_at is not None
    sent = sr.attempts[-1]
    decode, model = result.timings_s.get("decode", 0.0), result.timings_s.get("model", 0.0)

    def seconds(duration: timedelta) -> float:
        return duration.total_seconds()

    steps = (
        quiet_s,
        seconds(revision.completed_at - revision.last_received_at) - quiet_s,
        seconds(job.started_at - revision.completed_at),
        decode,
        model,
        seconds(job.finished_at - job.started_at) - decode - model,
        seconds(sent.started_at - job.finished_at),
        seconds(sr.accepted_at - sent.started_at),
    )
    return Sample(steps, seconds(sr.accepted_at - responded_at))


def p95(values: Sequence[float]) -> float:
    """The 95th percentile, by linear interpolation."""
    return float(np.percentile(values, 95))


def table(samples: Sequence[Sample]) -> str:
    """p50 and p95 of each step, in seconds."""
    rows = [(name, [s.steps[place] for s in samples]) for place, name in enumerate(STEPS)]
    rows.append(("total", [s.total_s for s in samples]))
    rows.append(("all but quiet time and model", [s.own_s for s in samples]))
    lines = [f"{'step':<30}{'p50 s':>9}{'p95 s':>9}"]
    lines += [f"{name:<30}{statistics.median(values):>9.3f}{p95(values):>9.3f}" for name, values in rows]
    return "\n".join(lines)


class Bench:
    """Sends studies to a running plan one after the other and reads their steps from the ledger."""

    def __init__(self, plan: Plan, supervisor: Supervisor, *, side: int) -> None:
        self._plan = plan
        self._supervisor = supervisor
        self._engine = open_database(database_path(plan.data))
        self._films = [render(seed, rows=side, cols=side).pixels for seed in (9104, 9105)]

    def measure(self, number: int) -> Sample:
        uid = derive_uid("bench", str(self._plan.data), str(number))
        files = _study(self._plan.data / "samples" / uid, uid, self._films)
        responded: list[datetime] = []

        def done(outcome: Outcome) -> None:
            if not outcome.sent:
                raise click.ClickException(f"an image was not stored: {outcome.words}")
            responded.append(datetime.now(UTC))

        items = [item for item in map(inspect, files) if isinstance(item, Item)]
        target = Target(self._plan.site.ae_title, dicom_host(self._plan.site), self._plan.dicom_port)
        send(items, target, calling=DEMO_CALLING_AE, done=done)
        shutil.rmtree(files[0].parent)
        revision, sr = self._wait(uid)
        quiet_s = self._plan.site.listener.quiet_time_s
        return split(revision, sr, responded_at=responded[-1], quiet_s=quiet_s)

    def _wait(self, uid: str) -> tuple[RevisionRow, DeliveryRow]:
        """Looks four times a second, so that looking costs the measured processes little."""
        deadline = monotonic() + _PATIENCE_S
        while monotonic() < deadline:
            sleep(0.25)
            self._supervisor.tick()
            with reading(self._engine) as connection:
                found = _delivered(show_study(connection, uid))
            if found is not None:
                return found
        raise click.ClickException(f"no SR of {uid} was delivered within {_PATIENCE_S:g} s; see {self._plan.data}/logs")


def _delivered(detail: StudyDetail | None) -> tuple[RevisionRow, DeliveryRow] | None:
    if detail is not None and detail.state in (AiState.FAILED, AiState.NOT_APPLICABLE):
        raise click.ClickException(f"the study ended as {detail.state}: {detail.row.reason}")
    latest = detail.latest if detail is not None else None
    for delivery in latest.deliveries if latest else ():
        ours = delivery.destination == DEMO_DESTINATIONS[0] and delivery.format is Format.SR
        if latest is not None and ours and delivery.state is DeliveryState.ACCEPTED:
            return latest, delivery
    return None


def _study(folder: Path, uid: str, films: Sequence[NDArray[np.float32]]) -> list[Path]:
    order = Order(uid, "Bench^Mark", "BENCH", "19700101", "F", secrets.token_hex(4), "Chest", datetime.now(UTC))
    return [
        write(folder / f"{number}.dcm", Image(film, "DX", number=number, view=view), order)
        for number, (film, view) in enumerate(zip(films, ("PA", "AP"), strict=True), start=1)
    ]


@click.command()
@click.option("--studies", type=click.IntRange(min=2), default=20, show_default=True)
@click.option("--side", type=click.IntRange(min=128), default=2048, show_default=True, help="Rows and columns.")
@click.option("--quiet-time", type=click.FloatRange(min=0.2), default=1.0, show_default=True, help="Seconds.")
def main(studies: int, side: int, quiet_time: float) -> None:
    """Measure, print a table, and end with 1 when the target is missed."""
    data = create(Path(tempfile.mkdtemp(prefix="hilum-bench-")))
    try:
        samples = _run(data, studies, side, quiet_time)
    finally:
        shutil.rmtree(data, ignore_errors=True)
    with suppress(OSError):
        click.echo(f"load average before the table was printed: {os.getloadavg()[0]:.1f}")
    own = p95([sample.own_s for sample in samples])
    verdict = "met" if own <= _TARGET_S else "missed"
    click.echo(table(samples))
    click.echo(f"target: all but quiet time and model, p95 at most {_TARGET_S:.1f} s: {verdict} ({own:.3f} s)")
    raise click.exceptions.Exit(0 if own <= _TARGET_S else 1)


def _run(data: Path, studies: int, side: int, quiet_time: float) -> list[Sample]:
    site = Site(listener=Listener(quiet_time_s=quiet_time))
    with locked(data) as lock:
        plan = make_plan(data, site, base=data, dicom_port=0, http_port=0, demo=True)
        migrate_to_head(data)
        supervisor = Supervisor(programs(plan), data=data, say=click.echo, inherit=lock)
        supervisor.start()
        try:
            deadline = monotonic() + _PATIENCE_S
            while supervisor.waiting_for():
                if monotonic() > deadline:
                    raise click.ClickException(f"not ready: {', '.join(supervisor.waiting_for())}; see {data}/logs")
                supervisor.tick()
                sleep(0.1)
            click.echo(
                f"{studies} studies of two DX images, {side} x {side}, 12 bits; {os.cpu_count()} cores, "
                f"{platform.machine()}, Python {platform.python_version()}"
            )
            bench = Bench(plan, supervisor, side=side)
            return [bench.measure(number) for number in range(studies + 1)][1:]
        finally:
            supervisor.stop()


if __name__ == "__main__":
    main()
