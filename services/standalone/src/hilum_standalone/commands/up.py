"""`hilum up`: everything on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hilum_standalone.options import Unusable, config_option, data_option, read_site, terminal

if TYPE_CHECKING:
    from rich.console import Console

    from hilum.runtime.cluster import Cluster
    from hilum_standalone.plan import Plan
    from hilum_standalone.supervisor import Supervisor

_READY_S = 180.0


@click.command()
@data_option
@click.option("--dicom-port", type=click.IntRange(0, 65535), default=11112, show_default=True, help="0: any free port.")
@click.option("--http-port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any free port.")
@click.option(
    "--stow-port", type=click.IntRange(0, 65535), help="Also listen for STOW-RS. Off without it and [listener.stow]."
)
@config_option
@click.option("--demo", is_flag=True, help="Also start three receivers, send sample studies and show what came out.")
@click.option("--exit-when-done", is_flag=True, help="With --demo: end after the table, with 0 if all of it went well.")
def up(
    data: Path,
    dicom_port: int,
    http_port: int,
    stow_port: int | None,
    config: Path | None,
    demo: bool,
    exit_when_done: bool,
) -> None:
    """Start everything on this machine and stay up until Ctrl-C or SIGTERM.

    With [cluster] in the configuration the services work on its servers, and others may beside them; the spool and the
    logs stay in --data.

    DICOM comes in on --dicom-port, the page is on 127.0.0.1:--http-port, and everything that must survive is in
    --data. A service that ends is started again; its log is in DATA/logs.

    With --demo, a DICOM, an FHIR and an HL7 receiver keep what they get in DATA/received, and sample studies
    (generated ones, and public real images that come with pydicom) are sent through real associations. Of the
    configured destinations only those with simulation = true get anything then.
    """
    if exit_when_done and not demo:
        raise click.UsageError("--exit-when-done goes with --demo")
    from hilum_standalone.folder import create, locked
    from hilum_standalone.plan import make_plan

    site = read_site(config)
    if demo and site.cluster is not None:
        raise Unusable("--demo is for one machine; the configuration has [cluster]")
    data = create(data)
    with locked(data) as lock:
        base = config.absolute().parent if config else Path.cwd()
        plan = make_plan(
            data, site, base=base, dicom_port=dicom_port, http_port=http_port, stow_port=stow_port, demo=demo
        )
        migrate_to_head(data, plan.site.cluster)
        if plan.site.cluster is not None:
            make_topics(plan.site.cluster)
        code = _run(plan, lock, exit_when_done)
    raise click.exceptions.Exit(code)


def make_topics(cluster: "Cluster") -> None:
    """What is missing; `hilum topics` says more."""
    from hilum.adapters.kafka.servers import Servers
    from hilum.adapters.kafka.topics import TopicAdmin
    from hilum.contracts.topics import TOPICS
    from hilum.domain.errors import Busy

    try:
        admin = TopicAdmin(Servers.of(cluster))
        try:
            for step in admin.plan(TOPICS):
                if step.is_change:
                    admin.apply(step)
        finally:
            admin.close()
    except Busy as error:
        raise Unusable(error.reason) from error


def migrate_to_head(data: Path, cluster: "Cluster | None" = None) -> None:
    from sqlalchemy.exc import DatabaseError

    from hilum.adapters.sql.database import database_path, open_state
    from hilum.adapters.sql.schema import CannotMigrate, migrate
    from hilum.domain.errors import Busy
    from hilum.runtime.cluster import SecretMissing

    place = database_path(data) if cluster is None else "the cluster's database"
    try:
        engine = open_state(data, cluster, application="hilum-migrate")
    except SecretMissing as error:
        raise Unusable(str(error)) from error
    try:
        migrate(engine)
    except (Busy, CannotMigrate, DatabaseError) as error:
        reason = str(error).splitlines()[0]
        raise Unusable(f"{place} can't be brought up to date: {reason}") from error
    finally:
        engine.dispose()


def _run(plan: "Plan", lock: int, exit_when_done: bool) -> int:
    """Supervises until a signal, or until the demo is done; the exit code."""
    from hilum.runtime.lifecycle import stop_on_signals
    from hilum_standalone.demo import DemoRun
    from hilum_standalone.plan import programs
    from hilum_standalone.supervisor import Supervisor

    console = terminal()
    stop = stop_on_signals()
    supervisor = Supervisor(
        programs(plan), data=plan.data, say=lambda line: console.print(line, markup=False), inherit=lock
    )
    demo: DemoRun | None = None
    try:
        supervisor.start()
        if not _wait_until_ready(supervisor, stop.wait, console):
            return 0 if stop.is_set() else 1
        announce(plan, console)
        if plan.demo is not None:
            demo = DemoRun(plan, console, stop)
            demo.start()
        while not stop.wait(0.1):
            supervisor.tick()
            if demo is not None and exit_when_done and demo.exit_code is not None:
                break
    finally:
        stop.set()
        supervisor.stop()
        if demo is not None:
            demo.join(timeout=2)
    return demo.exit_code or 0 if demo is not None and exit_when_done and demo.exit_code is not None else 0


def _wait_until_ready(supervisor: "Supervisor", wait: object, console: "Console") -> bool:
    """False when it was stopped or a service can't be started; then the reason was printed."""
    import time

    assert callable(wait)
    deadline = time.monotonic() + _READY_S
    while waiting := supervisor.waiting_for():
        if wait(0.1):
            return False
        supervisor.tick()
        failed = supervisor.hopeless()
        if failed is None and time.monotonic() > deadline:
            failed = waiting[0]
        if failed is not None:
            console.print(f"{failed} does not start. The end of its log:", markup=False)
            console.print(_tail(supervisor.log_of(failed)), markup=False)
            return False
    return True


def _tail(log: Path, lines: int = 8) -> str:
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return "(there is no log)"


def announce(plan: "Plan", console: "Console") -> None:
    """Where it listens, where its data is, and what an operator should know about this start."""
    site = plan.site
    lines = [
        f"DICOM  {site.ae_title}@{site.listener.host}:{plan.dicom_port}",
        *([f"STOW   {plan.stow}"] if plan.stow else []),
        f"Page   {plan.page}",
        f"Data   {plan.data}",
    ]
    if not site.peers:
        lines.append(
            "Warning: no peers are configured, so any AE title may send, from this machine only. "
            "List those that may in hilum.toml ([[peers]])."
        )
    if plan.left_out:
        lines.append(
            f"Demo: nothing is sent to {', '.join(plan.left_out)} while it runs, since only destinations with "
            "simulation = true take part."
        )
    if not site.destinations:
        lines.append("No destination is configured: results stay here (`hilum export` writes them to files).")
    for line in lines:
        console.print(line, markup=False)
