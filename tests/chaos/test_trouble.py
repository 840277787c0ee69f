"""Clocks that are minutes apart, and servers that are away: services wait and say so; the front door stores."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.folder import SHARED, FolderInstances
from hilum.adapters.sql.database import reading
from hilum.adapters.sql.tables import deliveries, instances, outcomes, revisions, studies
from hilum.domain.errors import Busy
from hilum.runtime.health import read
from hilum.testing.external import wait_until
from hilum_standalone.chaos.account import faults_found, quiet
from hilum_standalone.chaos.cluster import Cluster, Size, cluster
from hilum_standalone.chaos.traffic import Sent, Traffic, make_studies

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FEW_S = 30.0
"""What one study takes without trouble on a busy machine; ten minutes of skew would show."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two listeners twenty minutes apart, and a worker and results services that are off as well."""
    skew = {"scp-1": 10, "index-1": 10, "scp-2": -10, "index-2": -10, "worker-1": -10, "intake-1": 10, "sweep-1": -10}
    skew["deliver-1"] = 10
    size = Size(listeners=2, workers=1, results=1, wait_ms=50, quiet_time_s=1.0, skew_min=skew)
    with cluster(tmp_path_factory.mktemp("trouble") / "cluster", size, cuts=False) as found:
        yield found


@pytest.fixture
def ledger(running: Cluster) -> Iterator[Engine]:
    engine = running.database.open()
    yield engine
    engine.dispose()


def send(running: Cluster, folder: Path, count: int, seed: int) -> Traffic:
    traffic = Traffic(running.dicom_ports, seed)
    traffic.run([Sent(one.uid, one.parts) for one in make_studies(folder, count, seed)], senders=2)
    return traffic


def known(ledger: Engine) -> int:
    with reading(ledger) as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(studies)).scalar_one())


def ends(ledger: Engine, count: int, *, within_s: float = FEW_S) -> None:
    def ended() -> bool:
        try:
            return not quiet(ledger, count)
        except Busy:  # the test's own connections were cut as well
            return False

    wait_until(ended, timeout_s=within_s, what=f"the end of {count} studies")


def waits(running: Cluster, data: str, name: str, what: str) -> bool:
    said = read(running.folder / "data" / data, name)
    return said.alive and what in said.waits_for


def test_twenty_minutes_between_two_listeners_cost_nothing_and_no_study_is_cut_in_two(
    running: Cluster, ledger: Engine, tmp_path: Path
) -> None:
    began, before = time.time(), known(ledger)
    traffic = send(running, tmp_path, 6, seed=5)
    ends(ledger, before + 6)
    assert faults_found(running, ledger, traffic.acknowledged) == []
    with reading(ledger) as connection:
        found = connection.execute(sa.select(revisions)).all()
    assert {row.revision for row in found} == {1}
    for row in found:
        assert began - 1 <= row.last_received_at.timestamp() <= row.completed_at.timestamp() <= time.time() + 1


def test_what_redis_forgets_is_delivered_within_seconds(running: Cluster, ledger: Engine, tmp_path: Path) -> None:
    before = known(ledger)
    for number in range(3):
        running.redis.flush()
        send(running, tmp_path / str(number), 1, seed=60 + number)
        running.redis.flush()
    ends(ledger, before + 3)
    with reading(ledger) as connection:
        assert set(connection.execute(sa.select(deliveries.c.state)).scalars()) == {"accepted"}


def test_without_database_broker_redis_and_model_images_are_stored_and_all_goes_on_afterwards(
    running: Cluster, ledger: Engine, tmp_path: Path
) -> None:
    before = known(ledger)
    servers = (running.server, running.kafka, running.redis, running.model)
    for server in servers:
        server.kill()
    traffic = send(running, tmp_path, 4, seed=7)  # returns when all are acknowledged
    assert len(traffic.acknowledged) == 8
    for data, name, what in (
        ("listener-1", "index", "database"),
        ("listener-2", "index", "kafka"),
        ("worker-1", "worker", "database"),
        ("intake-1", "results-intake", "redis"),
        ("sweep-1", "results-sweep", "database"),
    ):
        wait_until(lambda d=data, n=name, w=what: waits(running, d, n, w), what=f"{name} waits for {what}")  # type: ignore[misc]
    assert read(running.folder / "data" / "listener-1", "scp").waits_for == {}
    assert all(process.popen.poll() is None for process in running.processes.values()), "nobody ended: they wait"
    for server in servers:
        server.start()
    ends(ledger, before + 4, within_s=90)
    assert faults_found(running, ledger, traffic.acknowledged) == []
    wait_until(lambda: not waits(running, "worker-1", "worker", "database"), what="a worker that waits for nothing")


def test_the_account_of_a_run_sees_what_is_missing_and_what_is_too_much(
    running: Cluster, ledger: Engine, tmp_path: Path
) -> None:
    """Runs last: it damages what the others made."""
    before = known(ledger)
    traffic = send(running, tmp_path, 2, seed=8)
    ends(ledger, before + 2)
    assert faults_found(running, ledger, traffic.acknowledged) == []
    uids = {one.uid for one in make_studies(tmp_path / "again", 2, seed=8)}
    with ledger.begin() as connection:
        of_these = instances.c.study_instance_uid.in_(uids)
        first, second, third = connection.execute(sa.select(instances).where(of_these).limit(3)).all()
        connection.execute(sa.delete(instances).where(instances.c.sop_instance_uid == first.sop_instance_uid))
        connection.execute(sa.delete(outcomes).where(outcomes.c.study_instance_uid == second.study_instance_uid))
    store = FolderInstances(running.instances, scheme=SHARED)
    store.path(second.uri).unlink()
    store.path(third.uri).write_bytes(b"\0" * third.size_bytes)
    (sr,) = running.orthanc.stored()[:1]
    running.orthanc.remove(sr)
    with (running.received / "hl7" / "receipts.jsonl").open("a") as receipts:
        receipts.write('{"identity": "of-nobody", "sha256": "00"}\n')
    found = "\n".join(faults_found(running, ledger, traffic.acknowledged))
    for said in (
        "is not in the index",
        "its bytes are not in the store",
        "the stored bytes are not those of the index",
        f"of {second.study_instance_uid} has no end",
        f"sr {sr} is accepted in the ledger and not at the destination",
        "oru of-nobody is at the destination and not in the ledger",
    ):
        assert said in found
