"""Apache Kafka for tests: one broker that is its own controller (KRaft), on free ports, in a temporary folder.

Its jars lie where `tests/tools/install-services` puts them. It can be killed and started again with the same data.
"""

import base64
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hilum.testing.external import Process, Server, answers, free_port, missing, need

_JAVA = (
    *("-Xms64m", "-Xmx256m"),
    *("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),  # starts in half the time
    *("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Djava.awt.headless=true"),
)


@dataclass(frozen=True, slots=True)
class Secured:
    """How the second port is met. `key_and_certificate`: one PEM file, the key in PKCS #8."""

    key_and_certificate: Path
    user: str
    password: str


class Kafka(Server):
    """A broker that can be stopped, killed, paused (`process.popen`) and started again on the same port and folder."""

    what = "Kafka broker"

    def __init__(self, folder: Path, *, advertised: int | None = None, secured: Secured | None = None) -> None:
        """Formats the storage under `folder`, which exists and is empty.

        `advertised`: the port that it tells clients to use, where a proxy stands in between. `secured`: it has a second
        port, for clients over TLS with a password.
        """
        self.folder = folder
        self.port = free_port()
        self.secured_port = free_port()
        self._secured = secured
        self.advertised = advertised or self.port
        self._java = need("java", install="default-jre-headless")
        self._jars = _jars()
        self._settings = folder / "server.properties"
        self._settings.write_text("".join(f"{name}={value}\n" for name, value in self._properties().items()))
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        command = self._command(
            "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", str(self._settings)
        )
        if secured is not None:
            command += ["--add-scram", f"SCRAM-SHA-512=[name={secured.user},password={secured.password}]"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise AssertionError(f"Kafka's storage could not be formatted:\n{done.stderr[-2000:]}")

    @property
    def bootstrap(self) -> tuple[str, ...]:
        """As `[cluster] kafka` in `hilum.toml`."""
        return (f"127.0.0.1:{self.advertised}",)

    def start(self) -> None:
        """Returns when it accepts connections."""
        command = self._command("kafka.Kafka", str(self._settings))
        self._process = Process(command, log=self.folder / "log", cwd=self.folder)
        self._process.wait_until(lambda: answers(self.port), timeout_s=60)

    def stop(self) -> None:
        """Ends it if it runs; its data are for nobody any more, so it isn't asked to put them in order."""
        if self._process is not None:
            self.kill()

    def _command(self, main: str, *arguments: str) -> list[str]:
        # It ends with the process that started it, however that ends.
        return ["setpriv", "--pdeathsig", "KILL", "--", self._java, *_JAVA, "-cp", self._jars, main, *arguments]

    def _properties(self) -> dict[str, object]:
        plain = self._plain_properties()
        if self._secured is None:
            return plain
        module = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        here = f",SASL_SSL://127.0.0.1:{self.secured_port}"
        return {
            **plain,
            "listeners": f"{plain['listeners']}{here}",
            "advertised.listeners": f"{plain['advertised.listeners']}{here}",
            "listener.security.protocol.map": f"{plain['listener.security.protocol.map']},SASL_SSL:SASL_SSL",
            "inter.broker.listener.name": "PLAINTEXT",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": module,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self._secured.key_and_certificate,
        }

    def _plain_properties(self) -> dict[str, object]:
        controller = free_port()
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.advertised}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": self.folder / "data",
            "auto.create.topics.enable": "false",  # `hilum topics` makes them
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            "group.initial.rebalance.delay.ms": 0,
            "group.min.session.timeout.ms": 1000,  # tests kill members and wait for their sessions to end
            # A killed broker registers again once its session has ended; on a busy machine a living one is slow, too.
            "broker.session.timeout.ms": 5000,
            "broker.heartbeat.interval.ms": 500,
            "log.cleaner.dedupe.buffer.size": 2_097_152,
        }


@contextmanager
def kafka(folder: Path) -> Iterator[Kafka]:
    """A running broker; stopped in the end."""
    folder.mkdir(parents=True, exist_ok=True)
    broker = Kafka(folder)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


def _jars() -> str:
    """The class path: the newest of the versions that are there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hilum"
    folders = sorted(path.parent for path in cache.glob("kafka-*/kafka_2.13-*.jar") if path.parent.suffix != ".part")
    if not folders:
        missing("Apache Kafka", "tests/tools/install-services (needs Maven)")
    return f"{folders[-1]}/*"
