"""kill -9 of each process in turn while studies arrive: nothing is lost, and each result has one effect."""

import hashlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hilum.adapters.sql.database import database_path, open_database, reading
from hilum.adapters.sql.tables import encodings, jobs, outcomes
from hilum.domain.results import AiState, DeliveryState
from hilum.testing.external import Process, free_port, wait_until
from hilum_modelops.generator import render
from hilum_standalone.samples import Image, Order, write
from hilum_standalone.sender import Item, Outcome, SendError, Target, inspect, send

from .conftest import Running, Start, details_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
SERVICES = ("scp", "assemble-route", "worker", "results", "console", "up")


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """For each process that will be killed, the two files of one study."""
    folder, pixels = tmp_path_factory.mktemp("images"), render(9104, rows=512, cols=512).pixels
    order = Order("", "Kill^Test", "K1", "19700101", "F", "K1", "Chest", NOW)
    return {
        name: [
            write(
                folder / f"{name}-{number}.dcm",
                Image(pixels, "CR", number=number),
                replace(order, study_instance_uid=f"1.2.826.0.1.3680043.9.{place}", accession_number=f"K{place}"),
            )
            for number in (1, 2)
        ]
        for place, name in enumerate(SERVICES, start=1)
    }


@pytest.fixture
def receivers(tmp_path: Path) -> Iterator[Path]:
    """The demo's receivers on their own; gives a configuration that sends to them."""
    ports = {kind: free_port() for kind in ("dicom", "fhir", "hl7")}
    options = [part for kind, port in ports.items() for part in (f"--{kind}", str(port))]
    command = [sys.executable, "-m", "hilum_standalone.receivers", "--data", tmp_path / "theirs", *options]
    config = tmp_path / "hilum.toml"
    config.write_text(
        "[listener]\nquiet_time_s = 1.5\n"
        '[[destinations]]\nname = "pacs"\nkind = "dicom"\nsimulation = true\nae_title = "DEMO_PACS"\n'
        f'host = "127.0.0.1"\nport = {ports["dicom"]}\ntimeout_s = 10\n'
        '[[destinations]]\nname = "fhir"\nkind = "fhir"\nsimulation = true\n'
        f'url = "http://127.0.0.1:{ports["fhir"]}"\ntimeout_s = 10\n'
        '[[destinations]]\nname = "ris"\nkind = "hl7"\nsimulation = true\n'
        f'host = "127.0.0.1"\nport = {ports["hl7"]}\ntimeout_s = 10\n'
    )
    with Process([str(part) for part in command], log=tmp_path / "receivers.log") as process:
        process.wait_until(lambda: (tmp_path / "theirs" / "run" / "receivers.ready").exists())
        yield config


def deliver(files: list[Path], port: int, between: Callable[[], None] = lambda: None) -> None:
    """Sends as a modality does: again from the start until every image was answered with success."""
    items = [item for item in map(inspect, files) if isinstance(item, Item)]
    first = True

    def all_stored() -> bool:
        nonlocal first
        outcomes: list[Outcome] = []

        def done(outcome: Outcome) -> None:
            nonlocal first
            outcomes.append(outcome)
            if first:
                first = False
                between()

        with suppress(SendError):
            send(items, Target("HILUM", "127.0.0.1", port), calling="MODALITY", done=done, timeout_s=10)
        return len(outcomes) == len(items) and all(outcome.sent for outcome in outcomes)

    wait_until(all_stored, timeout_s=60, what="success for every image")


def kill(running: Running, service: str) -> None:
    pid = running.pid(service)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: running.pid(service) not in (0, pid), timeout_s=30, what=f"a new {service}")


def when(data: Path, condition: sa.Select[Any], what: str) -> None:
    """Waits until the query counts something; looks often, to come in between two steps."""
    engine = open_database(database_path(data))

    def met() -> bool:
        with reading(engine) as connection:
            return bool(connection.execute(condition).scalar())

    try:
        wait_until(met, timeout_s=60, what=what)
    finally:
        engine.dispose()


def claimed(uid: str) -> sa.Select[Any]:
    return sa.select(sa.func.count()).where(jobs.c.study_instance_uid == uid, jobs.c.state == "claimed")


def ended(uid: str) -> sa.Select[Any]:
    return sa.select(sa.func.count()).where(outcomes.c.study_instance_uid == uid)


def uid_of(service: str) -> str:
    return f"1.2.826.0.1.3680043.9.{SERVICES.index(service) + 1}"


def all_delivered(data: Path) -> bool:
    found = details_of(data)
    return len(found) == len(SERVICES) and all(
        isinstance(d.state, AiState)
        and len(d.row.deliveries) == 3
        and all(x.state is DeliveryState.ACCEPTED for x in d.row.deliveries)
        for d in found
    )


def test_any_process_may_die_at_any_time(
    studies: dict[str, list[Path]], receivers: Path, start: Start, tmp_path: Path
) -> None:
    data, dicom_port, http_port = tmp_path / "data", free_port(), free_port()
    with start(data, receivers, dicom_port, http_port) as running:
        killer = threading.Thread(target=kill, args=(running, "scp"))
        deliver(studies["scp"], dicom_port, between=killer.start)  # dies in the middle of an association
        killer.join()

        deliver(studies["assemble-route"], dicom_port)
        kill(running, "assemble-route")  # dies within the quiet time

        deliver(studies["worker"], dicom_port)
        when(data, claimed(uid_of("worker")), "a claimed job")
        kill(running, "worker")  # dies with the job in its hands

        deliver(studies["results"], dicom_port)
        when(data, ended(uid_of("results")), "an outcome")
        kill(running, "results")  # dies while it delivers

        kill(running, "console")
        deliver(studies["console"], dicom_port)

        deliver(studies["up"], dicom_port)
        when(data, claimed(uid_of("up")), "a claimed job")
        services = [running.pid(name) for name in SERVICES if name != "up"]
        running.process.kill()  # the supervisor itself
    assert all(services)
    with start(data, receivers, dicom_port, http_port) as running:
        wait_until(lambda: all_delivered(data), timeout_s=240, what="the delivery of every result")
        assert not set(services) & {running.pid(name) for name in SERVICES if name != "up"}

    nothing_lost_and_nothing_twice(data, tmp_path / "theirs" / "received")


def nothing_lost_and_nothing_twice(data: Path, received: Path) -> None:
    """One state of each study, and of each result one identity and one set of bytes.

    Where the front door died between two images, the first may have become a revision of its own before the sender
    came back; the second then superseded it.
    """
    found = details_of(data)
    assert {d.row.study_uid for d in found} == {uid_of(name) for name in SERVICES}
    for detail in found:
        assert detail.state in (AiState.POSITIVE, AiState.NEGATIVE), detail.row.reason
        assert len(detail.images) == detail.revisions[0].instance_count == 2
        assert len(detail.revisions) == 1 or detail.row.study_uid == uid_of("scp")
    results = sum(len(detail.revisions) for detail in found)
    for kind, extension in (("dicom", "dcm"), ("fhir", "json"), ("hl7", "hl7")):
        files = sorted(path.name for path in (received / kind).glob(f"*.{extension}"))
        receipts = [json.loads(line) for line in (received / kind / "receipts.jsonl").read_text().splitlines()]
        assert len(SERVICES) <= len(files) <= results
        assert not [name for name in files if "~" in name]  # a resend with other bytes would be kept as name~2
        assert len({(r["identity"], r["sha256"]) for r in receipts}) == len(files)
    engine = open_database(database_path(data))
    with reading(engine) as connection:
        stored = {
            hashlib.sha256(row.content).hexdigest()
            for row in connection.execute(sa.select(encodings).where(encodings.c.format == "fhir"))
        }
    engine.dispose()
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in (received / "fhir").glob("*.json")} <= stored


def test_sigterm_stops_everything_within_fifteen_seconds(receivers: Path, start: Start, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with start(data, receivers, free_port(), free_port()) as running:
        pids = [running.pid(name) for name in SERVICES if name != "up"]
        running.process.popen.terminate()
        assert running.process.popen.wait(15) == 0
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
