"""The servers and the services of one cluster on this machine, each of them a unit that can be killed."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import TimeoutExpired, run

import httpx

from hilum.testing.external import Process, answers, free_port, need, wait_until
from hilum.testing.kafka import Kafka
from hilum.testing.model_server import WAITING_DIGEST, ModelServer, waiting_server
from hilum.testing.postgresql import Database, Postgresql, postgresql
from hilum.testing.redis import RedisServer
from hilum_standalone.chaos.cuts import Cuts
from hilum_standalone.chaos.units import Unit

_READY_S = 180.0
_STOP_S = 20.0


@dataclass(frozen=True, slots=True)
class Size:
    """How many of each; `wait_ms`: how long the model takes for an answer.

    `skew_min`: by how many minutes the clock of a service is ahead, by its name. `rules`: as in hilum.toml.
    """

    listeners: int = 2
    workers: int = 3
    results: int = 2
    wait_ms: int = 100
    engines: int = 2
    quiet_time_s: float = 1.5
    skew_min: Mapping[str, int] = field(default_factory=dict)
    rules: str = ""


class OrthancServer:
    """Orthanc as a PACS that can be killed and started again with what it has."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self.dicom_port, self.http_port = free_port(), free_port()
        self._program = need("Orthanc", install="orthanc")
        self._process: Process | None = None
        settings = {
            "DicomAet": "PACS",
            "DicomPort": self.dicom_port,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "DicomAlwaysAllowStore": True,
            "Plugins": [],
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    def start(self) -> None:
        self._process = Process([self._program, self._folder / "orthanc.json"], log=self._folder / "log")
        self._process.wait_until(lambda: answers(self.dicom_port) and answers(self.http_port), timeout_s=60)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def stored(self) -> list[str]:
        """The SOP Instance UID of every instance that it holds."""
        with self._client() as client:
            found = client.get("/instances", params={"expand": ""}).raise_for_status().json()
        return [one["MainDicomTags"]["SOPInstanceUID"] for one in found]

    def remove(self, sop_instance_uid: str) -> None:
        """As somebody at the PACS could."""
        with self._client() as client:
            for key in client.post("/tools/lookup", content=sop_instance_uid).raise_for_status().json():
                if key["Type"] == "Instance":
                    client.delete(key["Path"]).raise_for_status()

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.http_port}", trust_env=False, timeout=30)


@dataclass
class Cluster:
    """A running one."""

    folder: Path
    size: Size
    server: Postgresql
    database: Database
    redis: RedisServer
    kafka: Kafka
    model: ModelServer
    orthanc: OrthancServer
    cuts: Cuts
    environment: dict[str, str]
    ports: dict[str, int]
    units: list[Unit] = field(default_factory=list)
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "hilum.toml"

    @property
    def instances(self) -> Path:
        return self.folder / "instances"

    @property
    def received(self) -> Path:
        return self.folder / "destinations" / "received"

    @property
    def dicom_ports(self) -> tuple[int, ...]:
        """Where senders connect: the proxies before the listeners."""
        return tuple(self.ports[f"to listener-{number}"] for number in range(1, self.size.listeners + 1))

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def service(self, name: str, module: str, *arguments: str, children: bool = False) -> None:
        """A process of Hilum with this name: started, and a unit from now on."""
        command = [sys.executable, "-m", module, *arguments, "--config", str(self.config)]

        environment = {**self.environment, **_skew(self.size.skew_min.get(name, 0))}

        def start() -> None:
            self.processes[name] = Process(command, log=self.log(name), env=environment)

        start()
        self.units.append(Unit(name, start, lambda: self.processes[name], at_random=children))

    def role(self, name: str, module: str, *roles: str, data: str = "", children: bool = False) -> None:
        """As `service`, with a data folder of its own or of this name."""
        folder = self.folder / "data" / (data or name)
        self.service(name, module, *roles, "--data", str(folder), children=children)

    def stop(self) -> dict[str, int]:
        """SIGTERM to every service at once, then SIGKILL to what is left; the exit code of each."""
        for process in self.processes.values():
            if process.popen.poll() is None:
                process.popen.terminate()
        deadline = time.monotonic() + _STOP_S
        for process in self.processes.values():
            with suppress(TimeoutExpired):
                process.popen.wait(max(0.1, deadline - time.monotonic()))
            if process.popen.poll() is None:
                process.popen.kill()
            process.stop()
        return {name: process.popen.returncode for name, process in self.processes.items()}


@contextmanager
def cluster(folder: Path, size: Size, *, cuts: bool = True) -> Iterator[Cluster]:
    """Starts everything and waits until it serves; ends it all. With `cuts` every connection goes through a proxy."""
    with ExitStack() as stack:
        made = _servers(folder, size, stack, cuts)
        stack.callback(made.stop)
        _services(made)
        wait_until(lambda: _serves(made), timeout_s=_READY_S, what="a cluster that serves")
        yield made


def _servers(folder: Path, size: Size, stack: ExitStack, cuts: bool) -> Cluster:
    (folder / "logs").mkdir(parents=True)
    proxies = Cuts()
    stack.callback(proxies.close)
    server = stack.enter_context(postgresql())
    database = server.database()
    redis, kafka_port = RedisServer(_made(folder / "redis")), free_port()
    kafka = Kafka(_made(folder / "kafka"), advertised=kafka_port if cuts else None)
    model = waiting_server(folder / "model", wait_ms=size.wait_ms, engines=size.engines)
    orthanc = OrthancServer(folder / "orthanc")
    for one in (redis, kafka, model, orthanc):
        one.start()
        stack.callback(one.stop)
    ports = {"postgresql": server.port, "redis": redis.port, "model": model.port, "orthanc": orthanc.dicom_port}
    ports |= {"fhir": free_port(), "hl7": free_port(), "unused": free_port()}
    targets = dict(ports)
    if cuts:
        proxies.add("kafka", kafka.port, kafka_port)
        ports |= {name: proxies.add(name, ports[name]) for name in ("postgresql", "redis", "model", "orthanc")}
        ports |= {name: proxies.add(name, ports[name]) for name in ("fhir", "hl7")}
    environment = {**database.environment, **redis.environment}
    found = Cluster(folder, size, server, database, redis, kafka, model, orthanc, proxies, environment, ports)
    (folder / "instances").mkdir()
    found.config.write_text(_toml(found))
    _units(found)
    _topics(found)
    receivers = ["--dicom", str(ports["unused"]), "--fhir", str(targets["fhir"]), "--hl7", str(targets["hl7"])]
    _receivers(found, receivers)
    for number in range(1, size.listeners + 1):
        name, own = f"listener-{number}", free_port()
        ports[name] = own
        ports[f"to {name}"] = proxies.add(name, own) if cuts else own
    return found


def _skew(minutes: int) -> dict[str, str]:
    """The environment of a process whose time of day is off; what it waits by is still the kernel's."""
    if not minutes:
        return {}
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent / "skewed"), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "HILUM_CHAOS_SKEW_MIN": str(minutes)}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _units(found: Cluster) -> None:
    servers: list[tuple[str, Postgresql | Kafka | RedisServer | ModelServer | OrthancServer, bool]] = [
        ("postgresql", found.server, True),
        ("kafka", found.kafka, False),
        ("redis", found.redis, False),
        ("model", found.model, False),
        ("orthanc", found.orthanc, False),
    ]
    for name, server, children in servers:
        found.units.append(Unit(name, server.start, _process_of(server), at_random=children))


def _process_of(server: Postgresql | Kafka | RedisServer | ModelServer | OrthancServer) -> Callable[[], Process]:
    return lambda: server.process


def _receivers(found: Cluster, ports: list[str]) -> None:
    command = [sys.executable, "-m", "hilum_standalone.receivers", "--data", str(found.folder / "destinations"), *ports]

    def start() -> None:
        found.processes["destinations"] = Process(command, log=found.log("destinations"))

    start()
    found.units.append(Unit("destinations", start, lambda: found.processes["destinations"]))


def _topics(found: Cluster) -> None:
    command = [sys.executable, "-m", "hilum_standalone", "topics", "--config", str(found.config)]
    done = run(
        command, capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **found.environment}
    )
    if done.returncode != 0:
        raise AssertionError(f"the topics could not be made:\n{done.stderr[-2000:]}")


def _services(found: Cluster) -> None:
    listener = "hilum_listener"
    for number in range(1, found.size.listeners + 1):
        name = f"listener-{number}"
        port = str(found.ports[name])
        found.role(f"scp-{number}", listener, "scp", "--port", port, data=name)
        found.role(f"index-{number}", listener, "assemble", "route", "commit", data=name)
    for number in range(1, found.size.workers + 1):
        found.role(f"worker-{number}", "hilum_worker")
    for number in range(1, found.size.results + 1):
        found.role(f"intake-{number}", "hilum_results", "intake")
        found.role(f"sweep-{number}", "hilum_results", "sweep")
        found.role(f"deliver-{number}", "hilum_results", "deliver", children=True)


def _serves(found: Cluster) -> bool:
    for name, process in found.processes.items():
        if process.popen.poll() is not None:
            raise AssertionError(f"{name} ended with {process.popen.returncode}:\n{process.tail()}")
    data, size = found.folder / "data", found.size
    awaited = [data / f"worker-{n}/run/worker.ready" for n in range(1, size.workers + 1)]
    for number in range(1, size.listeners + 1):
        run_folder = data / f"listener-{number}" / "run"
        awaited += [run_folder / "scp.port", run_folder / "assemble.ready", run_folder / "route.ready"]
    for number in range(1, size.results + 1):
        awaited += [data / f"{role}-{number}/run/results-{role}.ready" for role in ("intake", "sweep", "deliver")]
    return all(path.exists() for path in awaited)


def _toml(found: Cluster) -> str:
    ports, url = found.ports, found.database.url.replace(f":{found.server.port}/", f":{found.ports['postgresql']}/")
    return f"""
[listener]
quiet_time_s = {found.size.quiet_time_s}
unreleased_quiet_time_s = 4
idle_timeout_s = 10
min_free_mb = 0
[model]
servers = ["127.0.0.1:{ports["model"]}"]
digest = "{WAITING_DIGEST}"
timeout_s = 20
silence_s = 4
[worker]
attempts = 20
lease_s = 6
[results]
lease_s = 2
first_retry_s = 0.3
longest_retry_s = 2
[cluster]
database = "{url}"
kafka = ["{found.kafka.bootstrap[0]}"]
redis = "redis://127.0.0.1:{ports["redis"]}/0"
instances = "{found.instances}"
[[destinations]]
name = "pacs"
kind = "dicom"
simulation = true
ae_title = "PACS"
host = "127.0.0.1"
port = {ports["orthanc"]}
timeout_s = 5
[[destinations]]
name = "fhir"
kind = "fhir"
simulation = true
url = "http://127.0.0.1:{ports["fhir"]}"
timeout_s = 5
[[destinations]]
name = "ris"
kind = "hl7"
simulation = true
host = "127.0.0.1"
port = {ports["hl7"]}
timeout_s = 5
{found.size.rules}"""
