"""`python -m hilum_standalone.ledger_bench`: PostgreSQL with a million studies against an empty one.

Measures the first page of the worklist, and completing a study: folded, completed, routed, claimed, stored and
delivered by the services' own handlers. The two databases take turns, study by study, on one server that syncs every
commit.
"""

import itertools
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.sql import ledger, tables
from hilum.adapters.sql.database import reading, transaction
from hilum.adapters.sql.eventlog import SqlPublisher
from hilum.contracts.messages import FindingsProduced, InferenceRequested, StudyReady
from hilum.domain.results import Format, Result
from hilum.ports.events import Received
from hilum.runtime.config import Site, Worklist, parse
from hilum.testing import results as samples
from hilum.testing.clock import SetClock
from hilum.testing.many_studies import fill_many
from hilum.testing.postgresql import postgresql
from hilum_console.pages import all_page, list_page
from hilum_console.snapshot import Snapshot, Snapshots
from hilum_listener.handlers.route import Router
from hilum_listener.settings import Places
from hilum_listener.testing import QUIET, Listener
from hilum_results.handlers import deliveries, intake
from hilum_results.handlers.verdict import accepted
from hilum_results.settings import Settings
from hilum_worker.handlers import jobs

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
KEEP = timedelta(hours=72)
_MADE = 2000
_LEASE = timedelta(seconds=30)
_SERVER = {"shared_buffers": "2GB", "max_wal_size": "4GB", "work_mem": "16MB", "wal_level": "minimal"}
_CONFIG = "".join(
    f'[[destinations]]\nname="{name}"\nkind="hl7"\nhost="h"\nport=1\nsimulation=true\n'
    for name in ("pacs", "fhir", "ris")
)
_MULTIPLIED = (tables.studies, tables.revisions, tables.routes, tables.results, tables.outcomes, tables.deliveries)
_BESIDE = (
    """INSERT INTO series SELECT study_instance_uid || '.1', study_instance_uid, 'DX', 'CHEST', 'PA' FROM studies""",
    """INSERT INTO instances SELECT study_instance_uid || '.1.' || n, study_instance_uid || '.1', study_instance_uid,
       '1.2.840.10008.5.1.4.1.1.1.1', '1.2.840.10008.1.2.1', 'spool:' || study_key || n, md5(study_key), 8000000, 2048,
       2048, 1, n, 'PA', 'MONOCHROME2', 'FOR PRESENTATION', last_received_at
       FROM studies CROSS JOIN generate_series(1, 2) n""",
    """INSERT INTO jobs (request_id, study_instance_uid, revision, lane, rank, payload, state, attempts, token, worker,
       last_error, due_at, enqueued_at, started_at, finished_at)
       SELECT md5(study_instance_uid), study_instance_uid, 1, 'routine', 2, '{}', 'done', 1, 1, 'w:1', '',
       last_received_at, last_received_at, last_received_at, last_received_at FROM studies""",
    """INSERT INTO encodings SELECT result_key, format, 'identity', md5(result_key), repeat('x', 100)::bytea
       FROM results CROSS JOIN (VALUES ('sr'), ('fhir'), ('oru')) f(format)""",
)


def fill(engine: Engine, count: int, *, apart: timedelta) -> None:
    """`count` ended studies of two images, a multiple of 2000: those of `fill_many`, copied with other identities."""
    with transaction(engine) as connection:
        fill_many(connection, _MADE, newest=NOW, apart=apart)
    copies = {"copies": count // _MADE - 1, "span": _MADE * apart // timedelta(microseconds=1)}
    for statement in (*(_multiply(table) for table in _MULTIPLIED), *_BESIDE):
        with transaction(engine) as connection:
            connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
            connection.execute(sa.text(statement), copies if ":copies" in statement else {})


def _multiply(table: sa.Table) -> str:
    columns = [column for column in table.columns if column.name != "id"]
    names = ", ".join(f'"{column.name}"' for column in columns)
    copied = ", ".join(_copied(column) for column in columns)
    return (
        f"INSERT INTO {table.name} ({names}) SELECT {copied} FROM {table.name} CROSS JOIN generate_series(1, :copies) k"
    )


def _copied(column: "sa.Column[object]") -> str:
    match column.name:
        case "study_instance_uid":
            return "study_instance_uid || '.' || k"
        case "study_key":
            return "substr(md5(study_key || '-' || k), 1, 16)"
        case "result_key":
            return "encode(sha256((result_key || '-' || k)::bytea), 'hex')"
    return f'"{column.name}" - k * :span' if isinstance(column.type, tables.Instant) else f'"{column.name}"'


def page_s(engine: Engine, turns: int) -> list[float]:
    """Seconds for the first page, as the page asks for it after somebody committed; sorted."""
    limits, snapshots = Worklist().to_domain(), Snapshots(engine, keep_ended=KEEP)

    def page() -> None:
        with transaction(engine) as connection:  # as if somebody had written something
            connection.execute(sa.text("SELECT pg_current_xact_id()"))
        spent.append(_seconds(show))

    def show() -> None:
        with reading(engine) as connection:
            list_page(connection, snapshots.current(connection, NOW), limits, NOW)

    spent: list[float] = []
    for _ in range(turns):
        page()
    snapshots.close()
    return sorted(spent)


def all_s(engine: Engine, turns: int) -> list[float]:
    """Seconds for the first page of all studies; sorted."""

    def page() -> None:
        with reading(engine) as connection:
            all_page(connection, 1)

    return sorted(_seconds(page) for _ in range(turns))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Services:
    """The services' handlers on one database; what they write leaves the ledger a study larger."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.engine = engine
        self.clock = SetClock(NOW)
        self.listener = Listener(Places(folder), engine, self.clock)
        self.listener.step()
        self.publisher = SqlPublisher(self.clock)
        self.router = Router(Site().domain_rules, self.publisher, self.clock)
        self.settings = Settings.of(parse(_CONFIG), data=folder)
        self.numbers = itertools.count()

    def complete_one(self) -> dict[str, float]:
        """Seconds by step."""
        name = f"bench {next(self.numbers)}"
        for image in ("a", "b"):
            self.listener.image(name, f"{name} {image}", BodyPartExamined="CHEST", ViewPosition="PA")
        spent = {"fold": _seconds(self.listener.step)}
        self.clock.advance(QUIET)
        spent["complete"] = _seconds(self.listener.step)
        ready = self._last("study.ready")
        spent["route"] = _seconds(lambda: self._route(ready))
        request = InferenceRequested.model_validate_json(self._last_inference()).to_domain()
        spent["job"] = _seconds(lambda: self._job(request))
        uid = StudyReady.model_validate_json(ready).study_instance_uid
        one = samples.image(1)
        found = samples.findings([samples.finding("Nodule", 1, on=one)], images=[one])
        message = FindingsProduced.from_domain(found).model_copy(update={"study_instance_uid": uid})
        spent["result"] = _seconds(lambda: self._store(message))
        spent["deliver"] = _seconds(self._deliver)
        return spent

    def _last(self, topic: str) -> str:
        query = sa.select(tables.events.c.payload).where(tables.events.c.topic == topic)
        with reading(self.engine) as connection:
            return str(connection.execute(query.order_by(tables.events.c.offset.desc()).limit(1)).scalar_one())

    def _last_inference(self) -> str:
        return self._last("inference.routine")

    def _route(self, payload: str) -> None:
        with transaction(self.engine) as connection:
            self.router.handle(connection, Received("study.ready", 1, "key", payload, {}))

    def _job(self, request: object) -> None:
        now = self.clock.now()
        with transaction(self.engine) as connection:
            jobs.enqueue(connection, request, now=now)  # type: ignore[arg-type]
        with transaction(self.engine) as connection:
            held = jobs.claim(
                connection, worker="w:1", now=now, lease=_LEASE, max_wait=timedelta(minutes=2), attempts=3
            )
        assert isinstance(held, jobs.Claim)
        with transaction(self.engine) as connection:
            assert jobs.end(connection, held, jobs.JobState.DONE, now=now)

    def _store(self, message: FindingsProduced) -> None:
        now = self.clock.now()
        with reading(self.engine) as connection:
            prepared = intake.prepare(
                connection,
                message.to_domain(),
                settings=self.settings,
                encoders=dict.fromkeys(Format, _encode),
                now=now,
                on_failure=lambda _format, _error: None,
            )
        assert prepared is not None
        with transaction(self.engine) as connection:
            intake.store(connection, prepared, settings=self.settings, now=now)

    def _deliver(self) -> None:
        now = self.clock.now()
        for destination in self.settings.destinations:
            with transaction(self.engine) as connection:
                parcel = deliveries.claim(
                    connection, destination.name, Format.ORU, simulation=True, now=now, lease=_LEASE
                )
            assert parcel is not None
            with transaction(self.engine) as connection:
                assert deliveries.settle(connection, parcel, accepted("AA"), now=now, pause=timedelta(0))


def _encode(_result: Result) -> bytes:
    return b"x" * 10_000


@contextmanager
def databases(count: int, apart: timedelta) -> Iterator[tuple[Engine, Engine]]:
    """An empty one and a full one on the same server."""
    with postgresql(settings={**_SERVER, "max_wal_senders": "0"}) as server:
        empty, full = server.database(), server.database()
        engines = empty.open(), full.open()
        began = time.perf_counter()
        fill(engines[1], count, apart=apart)
        with server.admin(full.name) as admin:
            admin.execute("VACUUM (ANALYZE)")
            admin.execute("CHECKPOINT")
        with server.admin(empty.name) as admin:
            admin.execute("VACUUM (ANALYZE)")
        click.echo(f"filled in {time.perf_counter() - began:.0f} s")
        yield engines
        for engine in engines:
            engine.dispose()


def _table(empty: Sequence[dict[str, float]], full: Sequence[dict[str, float]]) -> None:
    click.echo("| step | empty, p50 ms | full, p50 ms | ratio |\n| --- | --- | --- | --- |")
    for step in (*empty[0], "all"):
        values = [
            statistics.median(sum(one.values()) if step == "all" else one[step] for one in of) * 1e3
            for of in (empty, full)
        ]
        click.echo(f"| {step} | {values[0]:.2f} | {values[1]:.2f} | {values[1] / values[0]:.2f} |")


def _page(what: str, seconds: Sequence[float]) -> None:
    ms = [1e3 * value for value in seconds]
    click.echo(f"{what}: p50 {ms[len(ms) // 2]:.1f} ms, p95 {ms[int(len(ms) * 0.95)]:.1f} ms")


@click.command()
@click.option("--studies", default=1_000_000, show_default=True, help="A multiple of 2000.")
@click.option("--apart-s", default=240.0, show_default=True, help="Seconds between two studies of the ledger.")
@click.option("--turns", default=100, show_default=True, help="Studies completed on each database.")
def main(studies: int, apart_s: float, turns: int) -> None:
    """A full ledger against an empty one."""
    click.echo(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with databases(studies, timedelta(seconds=apart_s)) as (empty, full), tempfile.TemporaryDirectory() as folder:
        with reading(full) as connection:
            click.echo(f"{ledger.count_studies(connection)} studies")
            taken = Snapshot(connection, now=NOW, keep_ended=KEEP)
            click.echo(f"{len(taken.standings)} on the reading list")
        _page("first page of the worklist", page_s(full, turns))
        _page("first page of all studies", all_s(full, turns))
        sites = [Services(Path(folder) / name, engine) for name, engine in (("empty", empty), ("full", full))]
        for site in sites:
            for _ in range(5):
                site.complete_one()
        spent: list[list[dict[str, float]]] = [[], []]
        for _ in range(turns):
            for number, site in enumerate(sites):
                spent[number].append(site.complete_one())
        _table(spent[0], spent[1])
    click.echo(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
