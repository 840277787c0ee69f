"""For tests: the results service on a data folder of its own, destinations for its configuration, and a PACS."""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.sql import tables
from hilum.adapters.sql.database import database_path, open_database, reading, transaction
from hilum.adapters.sql.eventlog import SqlPublisher
from hilum.adapters.sql.schema import migrate
from hilum.contracts.messages import FindingsProduced, StudyEnded
from hilum.contracts.topics import FINDINGS_PRODUCED, STUDY_ENDED
from hilum.domain.findings import Findings
from hilum.domain.identity import study_key
from hilum.domain.inference import ModelIdentity
from hilum.domain.results import Ended
from hilum.ports.clock import SystemClock
from hilum.ports.events import Outgoing
from hilum.runtime.config import parse
from hilum.runtime.logs import Log
from hilum.testing import results as samples
from hilum.testing.external import Process, answers, need, wait_until
from hilum_results.encode import ENCODERS
from hilum_results.handlers import intake
from hilum_results.settings import Settings
from hilum_results.transport.service import serve

REAL = replace(samples.NANO, name="MedMO-4B", digest="cd" * 32, simulation=False)
ONE = samples.image(1)


COMMON = 'time_zone = "Europe/Berlin"\n[results]\nfirst_retry_s = 0.2\nlongest_retry_s = 0.5\n'


class ResultsSite:
    """A data folder with its database, and the results service that works on it."""

    def __init__(self, folder: Path, *, engine: Engine | None = None) -> None:
        """On SQLite in the folder, or on the database of `engine`, which is migrated."""
        self.folder = folder
        self.engine = engine or open_database(database_path(folder))
        if engine is None:
            migrate(self.engine)
        with transaction(self.engine) as connection:
            samples.index_study(connection, at=datetime.now(UTC))

    def publish(self, of: Findings | Ended) -> None:
        """As the worker does."""
        key = study_key(of.study_instance_uid)
        if isinstance(of, Findings):
            message = Outgoing(FINDINGS_PRODUCED.name, key, FindingsProduced.from_domain(of).model_dump_json())
        else:
            message = Outgoing(STUDY_ENDED.name, key, StudyEnded.from_domain(of).model_dump_json())
        with transaction(self.engine) as connection:
            SqlPublisher(SystemClock()).publish(connection, [message])

    @contextmanager
    def running(self, config: str) -> Iterator[None]:
        """The service in a thread of this process: what a test needs that kills nothing."""
        stop = threading.Event()
        codes: list[int] = []
        settings = Settings.of(parse(COMMON + config), data=self.folder)

        def work() -> None:
            log = Log("hilum.results")
            codes.append(serve(settings, self.engine, encoders=ENCODERS, clock=SystemClock(), stop=stop, log=log))

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        assert codes == [0]

    def store(self, config: str, *, revision: int = 1, study: str = "") -> None:
        """A result in the ledger with its deliveries queued, as intake leaves it, and nobody is woken.

        `study`: another one than the site's own; its first revision brings it into the index.
        """
        settings = Settings.of(parse(config), data=self.folder)
        now = datetime.now(UTC)
        found = nodule(revision=revision)
        with transaction(self.engine) as connection:
            if study and revision == 1:
                samples.index_study(connection, at=now, header=replace(samples.HEADER, study_instance_uid=study))
            if study:
                found = replace(found, study_instance_uid=study)
            prepared = intake.prepare(
                connection,
                found,
                settings=settings,
                encoders=ENCODERS,
                now=now,
                on_failure=lambda _format, error: fail(error),
            )
            assert prepared is not None
            intake.store(connection, prepared, settings=settings, now=now)

    def wait_handled(self, count: int) -> None:
        """Until the service has dealt with `count` messages."""
        wait_until(
            lambda: max((r.offset for r in self.rows(tables.consumer_offsets)), default=0) >= count,
            what=f"{count} messages handled",
        )

    def process(self, config: str) -> Process:
        path = self.folder / "hilum.toml"
        path.write_text(COMMON + config)
        command: list[str | Path] = [sys.executable, "-m", "hilum_results", "--data", self.folder, "--config", path]
        log = self.folder / "results.log"
        before = log.read_text().count("results ready") if log.exists() else 0
        started = Process(command, log=log)
        return started.wait_until(lambda: log.read_text().count("results ready") > before, timeout_s=120)

    def rows(self, table: sa.Table) -> Sequence[sa.Row[Any]]:
        with reading(self.engine) as connection:
            return connection.execute(sa.select(table)).all()

    def state(self, destination: str) -> str:
        return next((r.state for r in self.rows(tables.deliveries) if r.destination == destination), "")

    def wait(self, destination: str, state: str) -> None:
        wait_until(lambda: self.state(destination) == state, what=f"{destination} to be {state}")

    def wait_state(self, destination: str, state: str, *, revision: int) -> None:
        """As `wait`, for the delivery of one revision."""

        def there() -> bool:
            rows = self.rows(tables.deliveries)
            return any((r.destination, r.state, r.revision) == (destination, state, revision) for r in rows)

        wait_until(there, what=f"revision {revision} at {destination} to be {state}")

    def content(self, format_: str, *, revision: int = 1) -> bytes:
        """The encoded bytes of a revision's result."""
        keys = {r.result_key for r in self.rows(tables.results) if r.revision == revision}
        rows = self.rows(tables.encodings)
        content: bytes = next(r.content for r in rows if r.format == format_ and r.result_key in keys)
        return content


def fail(error: Exception) -> NoReturn:
    raise error


def nodule(*, model: ModelIdentity = samples.NANO, revision: int = 1) -> Findings:
    return samples.findings([samples.finding("Nodule", 1, on=ONE)], images=[ONE], model=model, revision=revision)


def dicom(port: int, *, name: str = "pacs", simulation: str = "true", title: str = "PACS") -> str:
    return (
        f'[[destinations]]\nname = "{name}"\nkind = "dicom"\nae_title = "{title}"\nhost = "127.0.0.1"\n'
        f"port = {port}\ntimeout_s = 5\nsimulation = {simulation}\n"
    )


def hl7_to(port: int, *, timeout_s: float = 5) -> str:
    return (
        f'[[destinations]]\nname = "ris"\nkind = "hl7"\nhost = "127.0.0.1"\nport = {port}\n'
        f'timeout_s = {timeout_s}\nsimulation = true\napplication = "RIS"\n'
    )


def fhir_to(port: int) -> str:
    return f'[[destinations]]\nname = "fhir"\nkind = "fhir"\nurl = "http://127.0.0.1:{port}/fhir"\nsimulation = true\n'


def storescp(folder: Path, port: int) -> Process:
    folder.mkdir(exist_ok=True)
    program = need("storescp", install="dcmtk")
    command: list[str | Path] = [
        program,
        "--aetitle",
        "PACS",
        "--output-directory",
        folder,
        "--bit-preserving",
        str(port),
    ]
    return Process(command, log=folder.parent / "storescp.log").wait_until(lambda: answers(port))
