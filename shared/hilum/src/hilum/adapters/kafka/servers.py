"""Where Kafka is, and what every client of it is told."""

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from kafka.errors import KafkaError  # type: ignore[import-untyped]

from hilum.domain.errors import Busy
from hilum.runtime.cluster import Cluster, SecretMissing

_CONNECT_S = 2.0


@dataclass(frozen=True, slots=True)
class Servers:
    """The bootstrap servers, each `host:port`; `prefix` stands before every topic and group of this installation.

    `security` are kafka-python's options for TLS and SASL, with the password in them: never to be shown.
    """

    bootstrap: tuple[str, ...]
    prefix: str = ""
    security: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, cluster: Cluster) -> "Servers":
        """Those of the configuration.

        Raises:
            SecretMissing: a certificate, key or password can't be read.
        """
        return cls(cluster.kafka, cluster.kafka_prefix, _security(cluster))

    @property
    def options(self) -> dict[str, Any]:
        """What producers, consumers and administrators share."""
        return {
            "bootstrap_servers": list(self.bootstrap),
            "bootstrap_timeout_ms": 5_000,
            "request_timeout_ms": 10_000,
            "reconnect_backoff_max_ms": 1_000,  # a broker that comes back is met within a second
            "metadata_max_age_ms": 30_000,
            **self.security,
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


def _security(cluster: Cluster) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if cluster.kafka_over_tls:
        options["ssl_context"] = _tls(cluster)
    password = cluster.kafka_password()
    if password is not None:
        options["sasl_mechanism"] = cluster.kafka_sasl
        options["sasl_plain_username"] = cluster.kafka_user
        options["sasl_plain_password"] = password.get_secret_value()
    secured = ("SASL_" if password is not None else "") + ("SSL" if cluster.kafka_over_tls else "PLAINTEXT")
    return {**options, "security_protocol": secured} if options else {}


def _tls(cluster: Cluster) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if cluster.kafka_ca_file is not None:
            context.load_verify_locations(cluster.kafka_ca_file)
        if cluster.kafka_certificate_file is not None:
            context.load_cert_chain(cluster.kafka_certificate_file, cluster.kafka_key_file)
    except OSError as error:  # ssl.SSLError is one
        raise SecretMissing(f"Kafka's certificates can't be used: {type(error).__name__}") from error
    return context


@contextmanager
def trouble_is_busy() -> Iterator[None]:
    """Kafka's errors that pass by themselves, and those that an administrator mends without a restart here, as Busy."""
    try:
        yield
    except KafkaError as error:
        raise Busy(f"Kafka is away: {type(error).__name__}") from error
