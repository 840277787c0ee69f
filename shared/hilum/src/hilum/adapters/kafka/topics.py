"""Bringing Kafka's topics to what `hilum.contracts.topics` declares: `hilum topics`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from kafka import KafkaAdminClient  # type: ignore[import-untyped]
from kafka.admin import ConfigResource, ConfigResourceType  # type: ignore[import-untyped]

from hilum.adapters.kafka.servers import Servers, trouble_is_busy
from hilum.contracts.topics import MAX_MESSAGE_BYTES, Topic

_OVERHEAD_BYTES = 2**20  # the key, the headers and what a batch adds; and bytes that don't compress


@dataclass(frozen=True, slots=True)
class Found:
    """A topic as Kafka has it."""

    partitions: int
    replicas: int
    configs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done about one topic.

    Attributes:
        partitions: the number that it shall have; 0: as it is.
        replicas: how many copies a topic that is created gets; 0: as it is.
        configs: those that shall change.
        refused: what is asked for and is not done, and why; empty when nothing.
    """

    topic: Topic
    partitions: int
    replicas: int
    configs: Mapping[str, str]
    refused: str
    words: str

    @property
    def is_change(self) -> bool:
        return self.partitions > 0 or bool(self.configs)


def declared_configs(topic: Topic, *, replicas: int) -> dict[str, str]:
    """Kafka's settings for a topic. With three copies, two must have a message before it counts as published."""
    return {
        "cleanup.policy": topic.cleanup,
        "retention.ms": str(topic.retention // timedelta(milliseconds=1)),
        "max.message.bytes": str(MAX_MESSAGE_BYTES + _OVERHEAD_BYTES),
        "min.insync.replicas": str(2 if replicas >= 3 else 1),
    }


def plan(topic: Topic, found: Found | None, *, replicas: int | None, brokers: int) -> Step:
    """What to do about a topic, from what Kafka has. Partitions are added and never taken away.

    Args:
        replicas: how many copies are asked for; None: three for a new topic, or one on fewer than three brokers.
        brokers: how many there are to hold them.
    """
    if found is None:
        copies = replicas or (3 if brokers >= 3 else 1)
        if copies > brokers:
            return Step(topic, 0, 0, {}, f"{copies} copies need as many brokers, there are {brokers}", "")
        return Step(topic, topic.partitions, copies, declared_configs(topic, replicas=copies), "", "create")
    refused, words = "", []
    if replicas not in (None, found.replicas):
        refused = f"has {found.replicas} copies, not {replicas}: reassign its partitions with Kafka's own tools"
    grow = topic.partitions if found.partitions < topic.partitions else 0
    if grow:
        words.append(f"{found.partitions} → {grow} partitions")
    elif found.partitions > topic.partitions:
        words.append(f"keeps its {found.partitions} partitions, Kafka can't take any away")
    wanted = declared_configs(topic, replicas=found.replicas)
    configs = {name: value for name, value in wanted.items() if found.configs.get(name) != value}
    words += [f"{name} {found.configs.get(name, '?')} → {value}" for name, value in configs.items()]
    return Step(topic, grow, 0, configs, refused, ", ".join(words))


class TopicAdmin:
    """Kafka's administrator. Close it after use."""

    def __init__(self, servers: Servers) -> None:
        """Raises: Busy: Kafka is away."""
        self._servers = servers
        with trouble_is_busy():
            self._client = KafkaAdminClient(**servers.options)

    def plan(self, topics: Sequence[Topic], *, replicas: int | None = None) -> list[Step]:
        """One step a topic, in order. `replicas` as in `plan`.

        Raises:
            Busy: Kafka is away.
        """
        with trouble_is_busy():
            brokers = len(self._client.describe_cluster()["brokers"])
            found = self._find([self._servers.topic(topic.name) for topic in topics])
        return [
            plan(topic, found.get(self._servers.topic(topic.name)), replicas=replicas, brokers=brokers)
            for topic in topics
        ]

    def apply(self, step: Step) -> None:
        """Does what a step says.

        Raises:
            Busy: Kafka is away or refuses; what was done before stays, and another run goes on from there.
        """
        name = self._servers.topic(step.topic.name)
        with trouble_is_busy():
            if step.replicas:
                new = {"num_partitions": step.partitions, "replication_factor": step.replicas}
                self._client.create_topics({name: {**new, "configs": dict(step.configs)}}, wait_for_metadata=True)
                return
            if step.partitions:
                self._client.create_partitions({name: step.partitions})
            if step.configs:
                self._client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, dict(step.configs))])

    def close(self) -> None:
        self._client.close()

    def _find(self, names: Sequence[str]) -> dict[str, Found]:
        known: list[dict[str, Any]] = [t for t in self._client.describe_topics(list(names)) if not t["error_code"]]
        if not known:
            return {}
        resources = [ConfigResource(ConfigResourceType.TOPIC, topic["name"], None) for topic in known]
        configs = self._client.describe_configs(resources, config_filter="all")["topic"]
        return {
            topic["name"]: Found(
                partitions=len(topic["partitions"]),
                replicas=min(len(partition["replica_nodes"]) for partition in topic["partitions"]),
                configs={name: str(entry["value"]) for name, entry in configs[topic["name"]].items()},
            )
            for topic in known
        }
