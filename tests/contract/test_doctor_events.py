"""`hilum doctor` on a cluster: is Kafka there, are its topics, and does the outbox empty?"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hilum.adapters.kafka.servers import Servers
from hilum.adapters.kafka.topics import TopicAdmin
from hilum.adapters.sql.database import reading, transaction
from hilum.adapters.sql.outbox import OutboxPublisher
from hilum.contracts.topics import STUDY_READY, TOPICS
from hilum.ports.events import Outgoing
from hilum.runtime.cluster import Cluster
from hilum.testing.clock import SetClock
from hilum.testing.external import free_port
from hilum.testing.kafka import Kafka
from hilum.testing.postgresql import Database
from hilum_standalone.diagnosis.check import Grade
from hilum_standalone.diagnosis.events import events


def cluster(bootstrap: str, folder: Path) -> Cluster:
    return Cluster(
        database="postgresql://hilum@127.0.0.1/hilum",
        kafka=(bootstrap,),
        kafka_prefix=f"{folder.name}.",
        redis="redis://127.0.0.1",
        instances="/mnt",
    )


def checks(database: Database, where: Cluster) -> dict[str, tuple[Grade, str]]:
    engine = database.open()
    with reading(engine) as connection:
        found = {check.what: (check.grade, check.found) for check in events(where, connection)}
    engine.dispose()
    return found


def test_topics_are_missed_then_found_then_found_changed(
    kafka_broker: Kafka, postgresql_database: Database, tmp_path: Path
) -> None:
    where = cluster(kafka_broker.bootstrap[0], tmp_path)
    grade, found = checks(postgresql_database, where)["Kafka"]
    assert (grade, found) == (Grade.RED, f"has no topic {', '.join(topic.name for topic in TOPICS)}")
    admin = TopicAdmin(Servers.of(where))
    for step in admin.plan([replace(STUDY_READY, retention_days=1), *TOPICS[1:]]):
        admin.apply(step)
    assert checks(postgresql_database, where)["Kafka"] == (Grade.NOTE, "topics are not as declared: study.ready")
    for step in admin.plan(TOPICS):
        admin.apply(step)
    admin.close()
    assert checks(postgresql_database, where)["Kafka"] == (Grade.OK, f"{len(TOPICS)} topics as declared")


def test_a_broker_that_is_away_is_red(postgresql_database: Database, tmp_path: Path) -> None:
    grade, found = checks(postgresql_database, cluster(f"127.0.0.1:{free_port()}", tmp_path))["Kafka"]
    assert grade is Grade.RED
    assert found.startswith("Kafka is away")


@pytest.mark.parametrize(("seconds", "grade"), [(3, Grade.OK), (3600, Grade.RED)])
def test_an_outbox_that_does_not_empty_is_red(
    postgresql_database: Database, tmp_path: Path, seconds: int, grade: Grade
) -> None:
    where = cluster(f"127.0.0.1:{free_port()}", tmp_path)
    assert checks(postgresql_database, where)["Outbox"] == (Grade.OK, "empty")
    engine = postgresql_database.open()
    clock = SetClock(datetime.now(UTC) - timedelta(seconds=seconds))
    with transaction(engine) as connection:
        OutboxPublisher(clock).publish(connection, [Outgoing("study.ready", "key", "{}")])
    engine.dispose()
    found = checks(postgresql_database, where)["Outbox"]
    assert found[0] is grade
    assert found[1].startswith("waiting for Kafka: 1, the oldest for ")
