"""What runs for one data folder: its effective configuration, its ports and its processes."""

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from hilum.runtime.config import ConfigError, Site, parse
from hilum_standalone.folder import pick_port, write_atomically
from hilum_standalone.options import Unusable
from hilum_standalone.supervisor import Program
from hilum_standalone.toml_text import toml_text

LOOPBACK = "127.0.0.1"
DEMO_CALLING_AE = "HILUM_DEMO"


@dataclass(frozen=True, slots=True)
class DemoPorts:
    """Where the demo's own receivers listen on the loopback interface."""

    dicom: int
    fhir: int
    hl7: int


@dataclass(frozen=True, slots=True)
class Plan:
    """`left_out`: the configured destinations that the demo leaves out, since patients may depend on them."""

    data: Path
    site: Site
    dicom_port: int
    http_port: int
    demo: DemoPorts | None
    stow_port: int | None = None
    left_out: tuple[str, ...] = ()

    @property
    def config(self) -> Path:
        """The effective configuration, which every service reads."""
        return self.data / "run" / "hilum.toml"

    @property
    def page(self) -> str:
        return f"http://{LOOPBACK}:{self.http_port}/"

    @property
    def stow(self) -> str:
        """The address for STOW-RS; empty when it is off."""
        host = self.site.listener.host
        scheme = "http" if self.site.listener.tls is None else "https"
        shown = f"[{host}]" if ":" in host else host
        return "" if self.stow_port is None else f"{scheme}://{shown}:{self.stow_port}/studies"


def make_plan(
    data: Path,
    site: Site,
    *,
    base: Path,
    dicom_port: int,
    http_port: int,
    demo: bool,
    stow_port: int | None = None,
) -> Plan:
    """Looks at the ports and writes the effective configuration. `base`: what a relative checkpoint path starts from.

    `stow_port`: goes before the configured one; without either, STOW-RS is off.

    Raises:
        Unusable: a port is in use, or the configuration and the demo's destinations don't go together.
    """
    if stow_port is None and site.listener.stow is not None:
        stow_port = site.listener.stow.port
    given = {"--dicom-port": dicom_port, "--http-port": http_port, "--stow-port": stow_port}
    for one, other in combinations(given, 2):
        if given[one] and given[one] == given[other]:
            raise Unusable(f"{one} and {other} are the same port")
    dicom = pick_port(site.listener.host, dicom_port, "--dicom-port")
    http = pick_port(LOOPBACK, http_port, "--http-port")
    stow = None if stow_port is None else pick_port(site.listener.host, stow_port, "--stow-port")
    ports = DemoPorts(*(pick_port(LOOPBACK, 0, "") for _ in range(3))) if demo else None
    text = toml_text(_effective(site, base, ports))
    try:
        effective = parse(text, name="the configuration with the demo's destinations")
    except ConfigError as error:
        raise Unusable(str(error)) from error
    left_out = tuple(d.name for d in site.destinations if demo and not d.simulation)
    plan = Plan(data, effective, dicom, http, ports, stow, left_out=left_out)
    write_atomically(plan.config, "# Written by `hilum up`; edit the file given with --config instead.\n" + text)
    return plan


def _effective(site: Site, base: Path, ports: DemoPorts | None) -> dict[str, Any]:
    values: dict[str, Any] = site.model_dump(mode="json", exclude_none=True)
    for table, key in _paths(values):
        table[key] = str((base / str(table[key])).absolute())
    if ports is not None:
        # The demo's studies are of nobody: whatever model reads them, they reach no system that patients depend on.
        kept = [d.model_dump(mode="json") for d in site.destinations if d.simulation]
        values["destinations"] = [*kept, *_demo_destinations(ports)]
        if site.peers:  # with peers configured, nobody else may send
            caller = {"ae_title": DEMO_CALLING_AE, "host": LOOPBACK}
            values["peers"] = [*site.model_dump(mode="json", exclude_none=True)["peers"], caller]
    return values


def _paths(values: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every file or folder that the configuration names, as a table and its key; the services don't know where the
    site's own file lies."""
    tables = [
        (values["model"], ("checkpoint",)),
        (values["listener"].get("tls", {}), ("certificate", "key", "client_ca")),
    ]
    tables += [(peer, ("certificate",)) for peer in values["peers"]]
    cluster = values.get("cluster", {})
    tables.append((cluster, tuple(key for key in cluster if key.endswith("_file"))))
    return ((table, key) for table, keys in tables for key in keys if key in table)


def _demo_destinations(ports: DemoPorts) -> list[dict[str, object]]:
    from hilum_standalone.receivers.dicom import AE_TITLE

    common = {"simulation": True, "host": LOOPBACK}
    return [
        {"name": "demo-pacs", "kind": "dicom", "ae_title": AE_TITLE, "port": ports.dicom, **common},
        {"name": "demo-fhir", "kind": "fhir", "url": f"http://{LOOPBACK}:{ports.fhir}", "simulation": True},
        {"name": "demo-ris", "kind": "hl7", "port": ports.hl7, "application": "DEMO_RIS", **common},
    ]


DEMO_DESTINATIONS = ("demo-pacs", "demo-fhir", "demo-ris")


def checkpoint_of(site: Site) -> Path:
    """The checkpoint that the worker loads: the configured one, else MedMO-Nano of this repository."""
    import hilum_medmo

    nano = Path(hilum_medmo.__file__).parents[2] / "checkpoints" / "medmo-nano"
    return site.model.checkpoint or nano


def programs(plan: Plan) -> list[Program]:
    """The processes in the order in which they stop: the front door first, the receivers last."""
    run = plan.data / "run"
    for stale in [*run.glob("*.port"), *run.glob("*.ready")]:
        stale.unlink()
    common = ("--data", str(plan.data), "--config", str(plan.config))

    def says(*names: str) -> Callable[[int], bool]:
        return lambda pid: all(_content(run / f"{name}.ready") == str(pid) for name in names)

    def listens(name: str, port: int) -> Callable[[int], bool]:
        # The file alone: a connection without an association would hold a place at a DICOM port for half a minute.
        return lambda _pid: _content(run / f"{name}.port").strip() == str(port)

    found = [
        Program(
            "scp",
            ("-m", "hilum_listener", "scp", *common, "--port", str(plan.dicom_port)),
            listens("scp", plan.dicom_port),
        ),
        *_stow_programs(plan, common, listens),
        Program(
            "assemble-route",
            ("-m", "hilum_listener", "assemble", "route", "commit", *common),
            says("assemble", "route", "commit"),
        ),
        *([Program("fetch", ("-m", "hilum_listener", "fetch", *common), says("fetch"))] if plan.site.retrieves else []),
        Program("worker", ("-m", "hilum_worker", *common), says("worker")),
        *_results_programs(plan, common, says),
        Program(
            "console",
            ("-m", "hilum_console", *common, "--port", str(plan.http_port)),
            listens("console", plan.http_port),
        ),
    ]
    if plan.demo is not None:
        demo = plan.demo
        ports = ("--dicom", str(demo.dicom), "--fhir", str(demo.fhir), "--hl7", str(demo.hl7))
        found.append(
            Program(
                "receivers",
                ("-m", "hilum_standalone.receivers", "--data", str(plan.data), *ports),
                says("receivers"),
            )
        )
    return found


def _results_programs(
    plan: Plan, common: tuple[str, ...], says: Callable[..., Callable[[int], bool]]
) -> Iterator[Program]:
    """One process on one machine; in a cluster each role has its own, since they scale apart."""
    if plan.site.cluster is None:
        yield Program("results", ("-m", "hilum_results", *common), says("results"))
        return
    for role in ("intake", "sweep", "deliver"):
        yield Program(f"results-{role}", ("-m", "hilum_results", role, *common), says(f"results-{role}"))


def _stow_programs(
    plan: Plan, common: tuple[str, ...], listens: Callable[[str, int], Callable[[int], bool]]
) -> Iterator[Program]:
    if plan.stow_port is not None:
        command = ("-m", "hilum_listener", "stow", *common, "--http-port", str(plan.stow_port))
        yield Program("stow", command, listens("stow", plan.stow_port))


def dicom_host(site: Site) -> str:
    """Where a program on this machine reaches the front door."""
    return {"0.0.0.0": LOOPBACK, "::": "::1", "": LOOPBACK}.get(site.listener.host, site.listener.host)


def _content(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def accepts(host: str, port: int, *, timeout_s: float = 0.5) -> bool:
    """True when something accepts a connection there."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True
    except OSError:
        return False
