"""`hilum topics` on a real Kafka: it makes what is declared, adds what is missing, and takes nothing away."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from click.testing import CliRunner

from hilum.adapters.kafka.servers import Servers
from hilum.adapters.kafka.topics import Found, TopicAdmin, declared_configs, plan
from hilum.contracts.topics import DEAD_LETTERS, STUDY_READY, TOPICS, Topic
from hilum.domain.errors import Busy
from hilum.testing.external import free_port, wait_until
from hilum.testing.kafka import Kafka
from hilum_standalone.__main__ import main


@pytest.fixture
def admin(kafka_broker: Kafka) -> Iterator[TopicAdmin]:
    opened = TopicAdmin(Servers(kafka_broker.bootstrap, prefix=f"{uuid4().hex[:8]}."))
    yield opened
    opened.close()


def apply(admin: TopicAdmin, *topics: Topic) -> list[str]:
    steps = admin.plan(topics or TOPICS)
    for step in steps:
        if step.is_change:
            admin.apply(step)
    return [step.words for step in steps]


def settle(admin: TopicAdmin, *topics: Topic) -> None:
    """Kafka confirms a change before its broker tells of it."""
    wait_until(lambda: not any(step.is_change for step in admin.plan(topics or TOPICS)), what="the change to be told")


def test_every_topic_is_made_and_the_second_run_changes_nothing(admin: TopicAdmin) -> None:
    assert apply(admin) == ["create"] * len(TOPICS)
    settle(admin)
    assert [(step.is_change, step.words, step.refused) for step in admin.plan(TOPICS)] == [(False, "", "")] * len(
        TOPICS
    )


def test_partitions_grow_and_never_shrink(admin: TopicAdmin) -> None:
    apply(admin, DEAD_LETTERS)
    grown = replace(DEAD_LETTERS, partitions=5)
    assert apply(admin, grown) == ["3 → 5 partitions"]
    settle(admin, grown)
    assert apply(admin, grown) == [""]
    (step,) = admin.plan([DEAD_LETTERS])
    assert (step.is_change, step.words) == (False, "keeps its 5 partitions, Kafka can't take any away")


def test_a_setting_that_differs_is_set(admin: TopicAdmin) -> None:
    apply(admin, STUDY_READY)
    shorter = replace(STUDY_READY, retention_days=2)
    assert apply(admin, shorter) == ["retention.ms 1209600000 → 172800000"]
    settle(admin, shorter)
    assert apply(admin, shorter) == [""]


def test_what_kafka_can_not_do_is_refused_with_the_reason() -> None:
    new = plan(STUDY_READY, None, replicas=3, brokers=1)
    assert (new.is_change, new.refused) == (False, "3 copies need as many brokers, there are 1")
    found = Found(12, 1, declared_configs(STUDY_READY, replicas=1))
    assert plan(STUDY_READY, found, replicas=3, brokers=3).refused.startswith("has 1 copies, not 3")
    assert plan(STUDY_READY, found, replicas=None, brokers=3).refused == ""


@pytest.mark.parametrize(("brokers", "copies", "in_sync"), [(1, 1, "1"), (2, 1, "1"), (3, 3, "2"), (5, 3, "2")])
def test_with_three_brokers_a_message_is_on_two_before_it_counts(brokers: int, copies: int, in_sync: str) -> None:
    step = plan(STUDY_READY, None, replicas=None, brokers=brokers)
    assert (step.replicas, step.configs["min.insync.replicas"]) == (copies, in_sync)


def test_the_command_makes_them_and_prints_what_is_declared(kafka_alone: Kafka, tmp_path: Path) -> None:
    config = tmp_path / "hilum.toml"
    config.write_text(
        f'[cluster]\ndatabase = "postgresql://hilum@127.0.0.1:1/hilum"\nkafka = ["{kafka_alone.bootstrap[0]}"]\n'
        f'redis = "redis://127.0.0.1:1"\ninstances = "{tmp_path}"\n'
    )
    arguments = ["topics", "--config", str(config)]
    dry = CliRunner().invoke(main, [*arguments, "--dry-run"])
    assert (dry.exit_code, dry.output.splitlines()[-1]) == (0, f"{len(TOPICS)} would change.")
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert [(row["topic"], row["outcome"]) for row in json.loads(done.output)] == [(t.name, "create") for t in TOPICS]
    again = CliRunner().invoke(main, arguments)
    assert (again.exit_code, again.output.splitlines()[-1]) == (0, "Nothing to change.")
    refused = CliRunner().invoke(main, [*arguments, "--replicas", "3"])
    assert refused.exit_code == 1
    assert "refused: has 1 copies, not 3" in refused.output


def test_without_a_cluster_the_command_says_that_there_is_nothing_to_make() -> None:
    done = CliRunner().invoke(main, ["topics"])
    assert done.exit_code == 0
    assert "study.ready" in done.output
    assert done.output.splitlines()[-1] == "On one machine the event log is in hilum.db; nothing to make."


def test_a_broker_that_is_away_is_said(tmp_path: Path) -> None:
    with pytest.raises(Busy, match="Kafka is away"):
        TopicAdmin(Servers((f"127.0.0.1:{free_port()}",)))
