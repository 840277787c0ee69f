"""The assemble process of a cluster: what was received is in S3 before the study is announced, also through a kill."""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.instances import open_instances
from hilum.adapters.sql.database import reading
from hilum.adapters.sql.event_tables import outbox
from hilum.adapters.sql.tables import instances, removals
from hilum.contracts.messages import StudyReady
from hilum.runtime.config import parse
from hilum.testing.clock import SetClock
from hilum.testing.external import Process, wait_until
from hilum.testing.postgresql import Database
from hilum.testing.s3 import REGION, S3Server, s3_server
from hilum_listener.settings import Places
from hilum_listener.testing import Listener, encoded_dataset, stored_files


class Site:
    """A listener's data folder, its cluster's PostgreSQL and S3, and the process that assembles."""

    def __init__(self, folder: Path, database: Database, s3: S3Server) -> None:
        self.folder, self.s3 = folder, s3
        self.engine: Engine = database.open()
        self.environment = {**database.environment, **s3.environment}
        self.config = (
            f'[listener]\nquiet_time_s = 1.0\n[cluster]\ndatabase = "{database.url}"\nkafka = ["127.0.0.1:1"]\n'
            f'redis = "redis://127.0.0.1:1/0"\ninstances = "s3://{s3.bucket}/instances"\n'
            f's3_endpoint = "{s3.endpoint}"\ns3_region = "{REGION}"\n'
        )
        (folder / "hilum.toml").write_text(self.config)
        self.listener = Listener(Places(folder), self.engine, SetClock(datetime.now(UTC)))

    def assemble(self) -> Process:
        command = [sys.executable, "-m", "hilum_listener", "assemble", "--data", str(self.folder)]
        config = ["--config", str(self.folder / "hilum.toml")]
        return Process([*command, *config], log=self.folder / "assemble.log", env=self.environment)

    def uris(self) -> list[str]:
        with reading(self.engine) as connection:
            return list(connection.execute(sa.select(instances.c.uri)).scalars())

    def ready(self) -> list[StudyReady]:
        with reading(self.engine) as connection:
            rows = connection.execute(sa.select(outbox).where(outbox.c.topic == "study.ready")).all()
        return [StudyReady.model_validate_json(row.payload) for row in rows]


@pytest.fixture
def site(tmp_path: Path, postgresql_database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with s3_server(tmp_path / "server") as s3:
        (tmp_path / "data").mkdir()
        found = Site(tmp_path / "data", postgresql_database, s3)
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        yield found
        found.engine.dispose()


def test_a_study_is_announced_with_what_workers_find_in_s3_and_the_spool_is_emptied(site: Site) -> None:
    for number in range(6):
        site.listener.image(name=f"image {number}")
    with site.assemble():
        wait_until(lambda: len(site.ready()) == 1, timeout_s=60, what="the study to be announced")
        wait_until(lambda: not stored_files(site.listener.places.spool), timeout_s=30, what="the spool to be empty")
    (ready,) = site.ready()
    named = [instance.uri for series in ready.series for instance in series.instances]
    assert sorted(named) == sorted(site.uris())
    worker = open_instances(site.folder.parent / "worker", parse(site.config).cluster)
    assert all(uri.startswith("s3:") and encoded_dataset(worker.path(uri)) for uri in named)
    assert site.listener.rows(removals) == []


def test_killed_in_its_uploads_and_with_s3_away_for_a_while_nothing_is_lost(site: Site) -> None:
    for number in range(40):
        site.listener.image(name=f"image {number}")
    with site.assemble() as first:
        wait_until(lambda: any(uri.startswith("s3:") for uri in site.uris()), timeout_s=60, what="the first upload")
        first.kill()
    site.s3.kill()
    with site.assemble():
        site.listener.image("another study", "other")
        wait_until(lambda: len(site.uris()) == 41, timeout_s=60, what="images to be indexed without S3")
        assert any(uri.startswith("spool:") for uri in site.uris())
        site.s3.start()
        wait_until(lambda: len(site.ready()) == 2, timeout_s=60, what="both studies to be announced")
    counts = sorted(sum(len(series.instances) for series in ready.series) for ready in site.ready())
    assert counts == [1, 40]
    worker = open_instances(site.folder.parent / "worker", parse(site.config).cluster)
    assert all(encoded_dataset(worker.path(uri)) for uri in site.uris())
