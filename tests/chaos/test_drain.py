"""SIGTERM drains: what is in flight is finished or handed back, and the next process goes on where this one stopped."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.sql.database import reading
from hilum.adapters.sql.event_tables import outbox, partition_offsets
from hilum.adapters.sql.tables import deliveries, instances, jobs, outcomes
from hilum.testing.external import wait_until
from hilum_standalone.chaos.account import faults_found, quiet
from hilum_standalone.chaos.cluster import Cluster, Size, cluster
from hilum_standalone.chaos.traffic import Sent, Traffic, make_studies
from hilum_standalone.chaos.units import Unit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
LIMIT_S = 12.0
"""A service's own limit is ten seconds; a busy machine's pauses come on top."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One of each, and a model that takes 0.7 s for each of four answers."""
    folder = tmp_path_factory.mktemp("drain") / "cluster"
    size = Size(listeners=1, workers=1, results=1, wait_ms=700, quiet_time_s=0.5)
    with cluster(folder, size, cuts=False) as found:
        yield found


@pytest.fixture
def ledger(running: Cluster) -> Iterator[Engine]:
    engine = running.database.open()
    yield engine
    engine.dispose()


def send(running: Cluster, folder: Path, count: int, seed: int) -> tuple[list[Sent], Traffic]:
    studies = [Sent(one.uid, one.parts) for one in make_studies(folder, count, seed)]
    traffic = Traffic(running.dicom_ports, seed)
    traffic.run(studies, senders=4)
    return studies, traffic


def rows(ledger: Engine, table: sa.Table, *where: sa.ColumnElement[bool]) -> list[sa.Row[tuple[object, ...]]]:
    with reading(ledger) as connection:
        return list(connection.execute(sa.select(table).where(*where)))


def unit(running: Cluster, name: str) -> Unit:
    return next(one for one in running.units if one.name == name)


def terminate(running: Cluster, name: str) -> float:
    """SIGTERM; seconds until it ended with 0."""
    process, began = running.processes[name], time.monotonic()
    process.popen.terminate()
    assert process.popen.wait(LIMIT_S) == 0, process.tail()
    return time.monotonic() - began


def settle(running: Cluster, ledger: Engine) -> None:
    with reading(ledger) as connection:
        known = connection.execute(sa.text("SELECT count(*) FROM studies")).scalar_one()
    wait_until(lambda: not quiet(ledger, known), timeout_s=120, what="an end of everything")


def test_a_worker_hands_its_job_back_uncounted_and_the_next_one_answers_it(
    running: Cluster, ledger: Engine, tmp_path: Path
) -> None:
    ((study,), _) = send(running, tmp_path, 1, seed=1)
    mine = jobs.c.study_instance_uid == study.uid
    wait_until(lambda: [row.state for row in rows(ledger, jobs, mine)] == ["claimed"], what="a claim", timeout_s=60)
    terminate(running, "worker-1")
    assert [(row.state, row.attempts) for row in rows(ledger, jobs, mine)] == [("queued", 0)]
    unit(running, "worker-1").start()
    settle(running, ledger)
    assert [(row.state, row.attempts) for row in rows(ledger, jobs, mine)] == [("done", 1)]


def test_the_index_stops_between_two_transactions_and_goes_on_there(
    running: Cluster, ledger: Engine, tmp_path: Path
) -> None:
    before = len(rows(ledger, instances))
    studies = [Sent(one.uid, one.parts) for one in make_studies(tmp_path, 6, seed=2)]
    traffic = Traffic(running.dicom_ports, 2)
    terminate(running, "index-1")
    traffic.run(studies, senders=4)  # the front door needs no index
    assert len(traffic.acknowledged) == 12
    assert len(rows(ledger, instances)) == before
    unit(running, "index-1").start()
    wait_until(lambda: len(rows(ledger, instances)) > before, timeout_s=60, what="the first of them in the index")
    terminate(running, "index-1")
    unit(running, "index-1").start()
    wait_until(lambda: len(rows(ledger, instances)) == before + 12, timeout_s=60, what="all of them in the index")


def test_a_front_door_that_stops_leaves_nothing_that_was_not_answered(
    running: Cluster, ledger: Engine, tmp_path: Path
) -> None:
    studies = [Sent(one.uid, one.parts) for one in make_studies(tmp_path, 10, seed=3)]
    traffic = Traffic(running.dicom_ports, 3)
    sending = threading.Thread(target=traffic.run, args=(studies,), kwargs={"senders": 4})
    sending.start()
    wait_until(lambda: len(traffic.acknowledged) >= 5, timeout_s=60, what="the first answers")
    terminate(running, "scp-1")
    unit(running, "scp-1").start()  # its senders try again
    sending.join(120)
    assert len(traffic.acknowledged) == 20
    for role in ("intake-1", "sweep-1", "deliver-1"):
        terminate(running, role)
    offsets = {(row.topic, row.partition): row.offset for row in rows(ledger, partition_offsets)}
    for role in ("intake-1", "sweep-1", "deliver-1"):
        unit(running, role).start()
    settle(running, ledger)
    assert all(
        row.offset >= offsets[(row.topic, row.partition)]
        for row in rows(ledger, partition_offsets)
        if (row.topic, row.partition) in offsets
    )
    assert faults_found(running, ledger, traffic.acknowledged) == []
    assert rows(ledger, outbox) == []
    assert {row.state for row in rows(ledger, deliveries)} == {"accepted"}
    assert {row.state for row in rows(ledger, outcomes)} == {"positive"}
