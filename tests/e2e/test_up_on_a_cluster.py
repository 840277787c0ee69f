"""`hilum up` with `[cluster]`: the same command, on PostgreSQL, Kafka, Redis and a model server."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess, run

import pytest

from hilum.testing.external import Process, free_port, wait_until
from hilum.testing.kafka import Kafka
from hilum.testing.model_server import WAITING_DIGEST, waiting_server
from hilum.testing.postgresql import Postgresql
from hilum.testing.redis import redis_server
from hilum_standalone.chaos.traffic import make_studies
from hilum_standalone.sender import Item, Outcome, Target, inspect, send

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
HILUM = (sys.executable, "-m", "hilum_standalone")


@dataclass
class Up:
    data: Path
    config: Path
    port: int
    environment: dict[str, str]
    process: Process

    def hilum(self, *arguments: str) -> CompletedProcess[str]:
        command = [*HILUM, *arguments, "--data", str(self.data), "--config", str(self.config)]
        environment = {**os.environ, **self.environment}
        return run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


@pytest.fixture
def up(tmp_path: Path, postgresql_server: Postgresql, kafka_broker: Kafka) -> Iterator[Up]:
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path / "redis"))
        model = stack.enter_context(waiting_server(tmp_path / "model", wait_ms=50))
        database = postgresql_server.database(schema=False)
        config, port = tmp_path / "hilum.toml", free_port()
        config.write_text(
            "[listener]\nquiet_time_s = 1\n"
            f'[model]\nservers = ["{model.address}"]\ndigest = "{WAITING_DIGEST}"\n'
            f'[cluster]\ndatabase = "{database.url}"\nkafka = ["{kafka_broker.bootstrap[0]}"]\nredis = "{redis.url}"\n'
            f'instances = "{tmp_path / "instances"}"\n'
        )
        environment = {**database.environment, **redis.environment}
        command = [*HILUM, "up", "--data", str(tmp_path / "data"), "--config", str(config)]
        command += ["--dicom-port", str(port), "--http-port", "0"]
        process = stack.enter_context(Process(command, log=tmp_path / "up.log", env=environment))
        process.wait_until(lambda: "Page " in process.log.read_text(), timeout_s=180)
        yield Up(tmp_path / "data", config, port, environment, process)


def test_a_study_goes_through_a_cluster_and_the_commands_read_its_database(up: Up, tmp_path: Path) -> None:
    (study,) = make_studies(tmp_path / "sent", 1, seed=3)
    outcomes: list[Outcome] = []
    items = [item for item in map(inspect, study.files) if isinstance(item, Item)]
    send(items, Target("HILUM", "127.0.0.1", up.port), calling="MODALITY", done=outcomes.append)
    assert all(outcome.sent for outcome in outcomes)

    def listed() -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(up.hilum("studies", "--json").stdout)
        return found

    wait_until(lambda: [row["state"] for row in listed()] == ["positive"], timeout_s=60, what="a positive study")
    shown = json.loads(up.hilum("show", study.uid, "--json").stdout)
    assert shown["study_uid"] == study.uid
    assert not (up.data / "hilum.db").exists()
    assert up.hilum("deliveries").stdout == "No delivery is parked or queued.\n"
    doctor = json.loads(up.hilum("doctor", "--json").stdout)
    assert [check["grade"] for check in doctor if check["what"] in ("Database", "Services")] == ["ok", "ok"]
    up.process.popen.terminate()
    assert up.process.popen.wait(30) == 0
