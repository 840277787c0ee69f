"""Where Kafka is, and what every client of it is told."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kafka.errors import KafkaError  # type: ignore[import-untyped]

from hilum.domain.errors import Busy
from hilum.runtime.cluster import Cluster

_CONNECT_S = 2.0


@dataclass(frozen=True, slots=True)
class Servers:
    """The bootstrap servers, each `host:port`; `prefix` stands before every topic and group of this installation."""

    bootstrap: tuple[str, ...]
    prefix: str = ""

    @classmethod
    def of(cls, cluster: Cluster) -> "Servers":
        return cls(cluster.kafka)

    @property
    def options(self) -> dict[str, Any]:
        """What producers, consumers and administrators share."""
        return {
            "bootstrap_servers": list(self.bootstrap),
            "bootstrap_timeout_ms": 5_000,
            "request_timeout_ms": 10_000,
            "reconnect_backoff_max_ms": 1_000,  # a broker that comes back is met within a second
            "metadata_max_age_ms": 30_000,
        }

    def topic(self, name: str) -> str:
        """The name in Kafka."""
        return self.prefix + name

    def group(self, name: str) -> str:
        """The name of a consumer group in Kafka."""
        return self.prefix + name

    def name(self, topic: str) -> str:
        """The name in Hilum."""
        return topic.removeprefix(self.prefix)

    def check(self) -> None:
        """One connection attempt to each server until one accepts.

        Raises:
            Busy: none does.
        """
        for server in self.bootstrap:
            host, port = server.rsplit(":", 1)
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
            except OSError:
                continue
            return
        raise Busy(f"Kafka is away: nothing answers at {', '.join(self.bootstrap)}")


@contextmanager
def trouble_is_busy() -> Iterator[None]:
    """Kafka's errors that pass by themselves, and those that an administrator mends without a restart here, as Busy."""
    try:
        yield
    except KafkaError as error:
        raise Busy(f"Kafka is away: {type(error).__name__}") from error
