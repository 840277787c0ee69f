"""`python -m hilum_standalone.capacity`: Poisson arrivals at ten times a peak hour, then 1, 2 and 4 workers.

Real servers and services on this machine, senders included, a model that waits 500 ms and is asked once a study. Times
are the database's: from the last image's arrival to the PACS's Success for the SR. Queue waits count; of the total only
the model's own time and the quiet time are taken out.
"""

import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.sql.database import reading
from hilum.adapters.sql.tables import deliveries, jobs, results, revisions
from hilum.testing.external import need, wait_until
from hilum_standalone.capacity.studies import PEAK_HOUR, Kind, Maker
from hilum_standalone.chaos.account import quiet
from hilum_standalone.chaos.cluster import Cluster, Size, cluster

_RULE = """
[[rules]]
name = "one question a study"
tasks = ["locate"]
max_images = 1
"""
_QUIET_S = 1.0
_TARGET_S = 1.0
_TARGETS = {2: 1.9, 4: 3.7}


@dataclass(frozen=True, slots=True)
class Taken:
    """One study, in seconds: waiting for a worker, all but model and quiet time, everything."""

    lane: str
    queue_s: float
    own_s: float
    total_s: float


class Senders:
    """Sends each study with DCMTK's storescu over an association of its own, to the listeners in turn."""

    def __init__(self, found: Cluster, maker: Maker, seed: int) -> None:
        self._program = need("storescu", install="dcmtk")
        self._ports = found.dicom_ports
        self._maker = maker
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(16)
        self.sent = self.bytes = self.failed = 0
        self._number = 0

    def poisson(self, *, times: float, seconds: float) -> None:
        """Arrivals of every kind at so many times its peak hour; returns when the last was sent."""
        began = time.monotonic()
        arrivals: list[tuple[float, Kind]] = []
        for kind in PEAK_HOUR:
            at = self._chance.expovariate(kind.an_hour * times / 3600)
            while at < seconds:
                arrivals.append((at, kind))
                at += self._chance.expovariate(kind.an_hour * times / 3600)
        waits = []
        for at, kind in sorted(arrivals, key=lambda arrival: arrival[0]):
            time.sleep(max(0.0, began + at - time.monotonic()))
            waits.append(self._pool.submit(self._send, kind, 0))
        for one in waits:
            one.result()

    def burst(self, kind: Kind, count: int) -> None:
        """So many studies of one image as fast as they go."""
        for one in [self._pool.submit(self._send, kind, 1) for _ in range(count)]:
            one.result()

    def _send(self, kind: Kind, images: int) -> None:
        with self._lock:
            self._number += 1
            number, port = self._number, self._ports[self._number % len(self._ports)]
            _uid, folder, size = self._maker.make(kind, number, self._chance, images=images)
        command = [self._program, "-R", "-aec", "HILUM", "127.0.0.1", str(port), "+sd", str(folder)]
        done = subprocess.run(command, capture_output=True, check=False, timeout=300)
        shutil.rmtree(folder)
        with self._lock:
            self.sent += 1
            self.bytes += size
            self.failed += done.returncode != 0


@click.command()
@click.option("--times", type=float, default=10.0, show_default=True, help="Of the peak hour.")
@click.option("--minutes", type=float, default=10.0, show_default=True)
@click.option("--scale", type=float, default=16.0, show_default=True, help="Images have so many times fewer bytes.")
@click.option("--wait-ms", type=int, default=500, show_default=True, help="The model's time for an answer.")
@click.option("--jobs", "count", type=int, default=24, show_default=True, help="Jobs a worker, for the scaling.")
@click.option("--seed", type=int, default=1, show_default=True)
def main(times: float, minutes: float, scale: float, wait_ms: int, count: int, seed: int) -> None:
    """Measure and print; the exit code is 1 when a target is missed."""
    folder = Path(tempfile.mkdtemp(prefix="hilum-capacity-"))
    size = Size(listeners=2, workers=4, results=1, wait_ms=wait_ms, engines=4, quiet_time_s=_QUIET_S, rules=_RULE)
    try:
        with cluster(folder / "cluster", size, cuts=False) as found:
            engine = found.database.open()
            senders = Senders(found, Maker(folder / "sent", scale=scale, seed=seed), seed)
            met = _peak(found, engine, senders, times=times, minutes=minutes, scale=scale)
            met = _scaling(found, engine, senders, count) and met
            engine.dispose()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    raise click.exceptions.Exit(0 if met else 1)


def _peak(found: Cluster, engine: Engine, senders: Senders, *, times: float, minutes: float, scale: float) -> bool:
    began = time.monotonic()
    senders.poisson(times=times, seconds=minutes * 60)
    took_s = time.monotonic() - began
    _rest(engine, senders.sent)
    taken = _taken(engine)
    click.echo(
        f"{senders.sent} studies in {took_s:.0f} s, {times:g} times the peak hour, {senders.bytes / 1e9:.2f} GB: "
        f"images with 1/{scale:g} of their bytes; {senders.failed} not sent; load {os.getloadavg()[0]:.1f} on "
        f"{os.cpu_count()} cores"
    )
    click.echo(f"{'p50 p95 p99 in s':<18}{'studies':>8}{'queue wait':>26}{'all but model, quiet':>26}{'total':>26}")
    lanes = defaultdict(list)
    for one in taken:
        lanes[one.lane].append(one)
    for lane, of_lane in [*sorted(lanes.items()), ("all", taken)]:
        columns = (_quantiles([getattr(one, name) for one in of_lane]) for name in ("queue_s", "own_s", "total_s"))
        queue, own, total = columns
        click.echo(f"{lane:<18}{len(of_lane):>8}{queue:>26}{own:>26}{total:>26}")
    own_s = float(np.percentile([one.own_s for one in taken], 95))
    verdict = "met" if own_s <= _TARGET_S else "missed"
    click.echo(f"target: all but model and quiet time, p95 at most {_TARGET_S:g} s: {verdict} ({own_s:.3f} s)")
    return own_s <= _TARGET_S


def _scaling(found: Cluster, engine: Engine, senders: Senders, count: int) -> bool:
    """Jobs wait while no worker runs; then so many workers take them."""
    rates: dict[int, float] = {}
    names = [f"worker-{number}" for number in range(1, 5)]
    for workers in (1, 2, 4):
        for name in names:
            if found.processes[name].popen.poll() is None:
                found.processes[name].popen.terminate()
        for name in names:
            found.processes[name].popen.wait(30)
        with reading(engine) as connection:
            before = set(connection.execute(sa.select(jobs.c.request_id)).scalars())
        senders.burst(PEAK_HOUR[0], workers * count)
        for unit in found.units:
            if unit.name in names[:workers]:
                unit.start()
        _rest(engine, senders.sent)
        rates[workers] = _rate(engine, before, workers)
        click.echo(f"{workers} workers: {rates[workers]:.2f} studies/s, {rates[workers] / rates[1]:.2f} x")
    return all(rates[workers] / rates[1] >= wanted for workers, wanted in _TARGETS.items())


def _rate(engine: Engine, before: set[str], workers: int) -> float:
    """Studies a second from when the last worker took its first job until the first one found no more."""
    with reading(engine) as connection:
        rows = [row for row in connection.execute(sa.select(jobs)) if row.request_id not in before]
    of_each = defaultdict(list)
    for row in rows:
        of_each[row.worker].append(row)
    if len(of_each) != workers:
        raise click.ClickException(f"{len(of_each)} of {workers} workers took jobs")
    begin = max(min(row.started_at for row in of_one) for of_one in of_each.values())
    end = min(max(row.finished_at for row in of_one) for of_one in of_each.values())
    within = [row for row in rows if begin < row.finished_at <= end]
    seconds: float = (end - begin).total_seconds()
    return len(within) / seconds


def _rest(engine: Engine, count: int) -> None:
    wait_until(lambda: not quiet(engine, count), timeout_s=900, what=f"the end of {count} studies")


def _taken(engine: Engine) -> list[Taken]:
    """Of the first revision of each study that has a result and an SR in the PACS."""
    joined = (
        sa.select(
            jobs.c.lane, jobs.c.started_at, revisions.c.completed_at, revisions.c.last_received_at,
            deliveries.c.accepted_at, results.c.findings,
        )
        .join_from(revisions, jobs, _same(revisions, jobs))
        .join(results, _same(revisions, results))
        .join(deliveries, deliveries.c.result_key == results.c.result_key)
        .where(deliveries.c.format == "sr", deliveries.c.accepted_at.is_not(None), revisions.c.revision == 1)
    )  # fmt: skip
    found = []
    with reading(engine) as connection:
        for row in connection.execute(joined):
            model_s = sum(seconds for name, seconds in row.findings["timings_s"].items() if name == "model")
            total_s = (row.accepted_at - row.last_received_at).total_seconds()
            queue_s = (row.started_at - row.completed_at).total_seconds()
            found.append(Taken(row.lane, queue_s, total_s - model_s - _QUIET_S, total_s))
    return found


def _same(one: sa.Table, other: sa.Table) -> sa.ColumnElement[bool]:
    return sa.and_(one.c.study_instance_uid == other.c.study_instance_uid, one.c.revision == other.c.revision)


def _quantiles(values: Sequence[float]) -> str:
    return " ".join(f"{value:.2f}" for value in np.percentile(values, [50, 95, 99]))


if __name__ == "__main__":
    main()
