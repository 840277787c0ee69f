"""Checks of one data folder: files, database, processes, what got stuck, and the destinations."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from hilum.runtime.cluster import Cluster, SecretMissing
from hilum.runtime.config import AnyDestination, DicomArchive, DicomDestination, DicomwebArchive, FhirDestination, Site
from hilum_standalone.diagnosis.check import Check, note, ok, red
from hilum_standalone.diagnosis.doors import doors
from hilum_standalone.diagnosis.events import events
from hilum_standalone.folder import is_alive, is_running, processes
from hilum_standalone.plan import DEMO_DESTINATIONS, LOOPBACK, accepts, dicom_host


def installation(data: Path, site: Site) -> Iterator[Check]:
    start = f"hilum up --data {data}"
    if not data.exists():
        yield note("Data folder", f"{data} does not exist yet", start)
        return
    if os.access(data, os.W_OK | os.X_OK):
        yield ok("Data folder", str(data.absolute()))
    else:
        yield red("Data folder", f"{data} can't be written to", f"chown or chmod {data}")
    yield from _database(data, site.cluster, start)
    running = is_running(data)
    yield from _processes(data, site, running, start)
    yield from doors(data, site, running=running, now=datetime.now(UTC))
    yield from _destinations(site, running)
    for archive in site.archives:
        trouble = _ask(site.ae_title, archive)
        what = f"Archive {archive.name}"
        if trouble:
            yield red(what, trouble, "start it, or mend its place in hilum.toml; no study waits for it for ever")
        else:
            fetched = "nothing is fetched" if archive.retrieve == "none" else f"fetched by {archive.retrieve}"
            yield ok(what, f"answers; {fetched}")


def _database(data: Path, cluster: Cluster | None, start: str) -> Iterator[Check]:
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from sqlalchemy.exc import DBAPIError

    from hilum.adapters.sql.database import database_path, open_state, reading, revision_in, trouble
    from hilum.adapters.sql.schema import MIGRATIONS
    from hilum.domain.errors import Busy

    if cluster is None and not database_path(data).exists():
        yield note("Database", "not made yet", start)
        return
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    head = ScriptDirectory.from_config(config).get_current_head()
    try:
        engine = open_state(data, cluster, application="hilum-doctor")
    except SecretMissing as error:
        yield red("Database", str(error), "give the password in its file or in the environment")
        return
    try:
        with reading(engine) as connection:
            version = revision_in(connection)
            if version is None:
                yield note("Database", "has no tables yet", start)
                return
            if version == head:
                yield ok("Database", f"schema {version}")
            else:
                yield red("Database", f"schema {version}, this release has {head}", f"restart with: {start}")
                return
            yield from _stuck(connection)
            if cluster is not None:
                yield from events(cluster, connection)
    except Busy as error:
        look = "look at its file and at what holds it open" if cluster is None else "look at the cluster's PostgreSQL"
        yield red("Database", error.reason, look)
    except DBAPIError as error:
        if cluster is not None:
            yield red("Database", f"is not of this release ({trouble(error)})", "hilum migrate")
            return
        broken = f"{database_path(data)} is broken or not of this release ({trouble(error)})"
        yield red("Database", broken, f"stop Hilum, keep a copy of {data}, then bring back a backup of the file")
    finally:
        engine.dispose()


def _stuck(connection: object) -> Iterator[Check]:
    """What waits for a person: dead letters, parked deliveries, quarantined images."""
    import sqlalchemy as sa

    from hilum.adapters.sql.ledger import count_dead_letters, count_quarantine, list_dead_letters, list_quarantine
    from hilum.adapters.sql.tables import deliveries
    from hilum.domain.results import DeliveryState

    assert isinstance(connection, sa.Connection)
    letters = count_dead_letters(connection)
    if letters:
        newest = list_dead_letters(connection)[0]
        found = f"{letters}; the newest, on {newest.topic}: {newest.reason}"
        again = "mend the reason, then: hilum dead-letters replay ID (`hilum dead-letters list` has the IDs)"
        yield red("Dead letters", found, again)
    else:
        yield ok("Dead letters", "none")
    parked = connection.execute(
        sa.select(deliveries.c.destination, deliveries.c.format, deliveries.c.reason)
        .where(deliveries.c.state == DeliveryState.PARKED)
        .order_by(deliveries.c.id.desc())
    ).all()
    if parked:
        found = f"{len(parked)}; the newest, {parked[0].format} to {parked[0].destination}: {parked[0].reason}"
        yield red(
            "Parked deliveries",
            found,
            "mend the destination, then: hilum deliveries --retry --all (`hilum deliveries` lists them)",
        )
    else:
        yield ok("Parked deliveries", "none")
    yield from _not_fetched(connection)
    kept = count_quarantine(connection)
    if kept:
        newest_reason = list_quarantine(connection)[0].reason
        yield note(
            "Quarantine",
            f"{kept} received objects could not be indexed: {newest_reason}",
            "they are kept; see the page",
        )


def _not_fetched(connection: object) -> Iterator[Check]:
    """What archives were asked for in vain."""
    import sqlalchemy as sa

    from hilum.adapters.sql.tables import retrievals

    assert isinstance(connection, sa.Connection)
    failed = connection.execute(
        sa.select(retrievals.c.kind, retrievals.c.reason)
        .where(retrievals.c.state == "failed")
        .order_by(retrievals.c.finished_at.desc())
    ).all()
    if failed:
        found = f"{len(failed)} given up; the newest, {failed[0].kind}: {failed[0].reason}"
        yield note("Asked of archives", found, "the studies went on without; `hilum show` says which")


def _processes(data: Path, site: Site, running: bool, start: str) -> Iterator[Check]:
    if not running:
        yield note("Services", "not running", start)
        return
    known = processes(data)
    dead = [name for name, entry in known.items() if not is_alive(str(entry["pid"]))]
    restarted = [f"{name} {entry['restarts']} times" for name, entry in known.items() if entry["restarts"]]
    if dead or not known:
        yield red("Services", f"not alive: {', '.join(dead) or 'all'}", f"see {data / 'logs'}")
    elif restarted:
        yield note("Services", f"all alive; started again: {', '.join(restarted)}", f"see {data / 'logs'}")
    else:
        yield ok("Services", f"{', '.join(known)}: alive")
    for service, what in (("scp", "DICOM port"), ("console", "Page")):
        try:
            port = int((data / "run" / f"{service}.port").read_text())
        except (OSError, ValueError):
            yield red(what, "no port is known", f"see {data / 'logs' / service}.log")
            continue
        if _associates(site, port) if service == "scp" else accepts(LOOPBACK, port):
            yield ok(what, f"answers on {LOOPBACK}:{port}")
        else:
            yield red(what, f"nothing answers on {LOOPBACK}:{port}", f"see {data / 'logs' / service}.log")


def _destinations(site: Site, running: bool) -> Iterator[Check]:
    if not site.destinations:
        yield note("Destinations", "none configured: results stay here", "add [[destinations]] to hilum.toml")
    for destination in site.destinations:
        if destination.name in DEMO_DESTINATIONS and not running:
            continue  # the demo's receivers live and die with it
        what = f"Destination {destination.name}"
        trouble = _reach(site, destination)
        if trouble:
            yield red(what, trouble, "start it, or mend its host and port in hilum.toml")
        else:
            yield ok(
                what, f"answers{'' if destination.simulation else '; not a simulation: gets no result of MedMO-Nano'}"
            )


def _reach(site: Site, destination: AnyDestination) -> str:
    """Empty when the destination answers in its own protocol, else what happened."""
    if isinstance(destination, DicomDestination):
        return _echo(site.ae_title, destination)
    if isinstance(destination, FhirDestination):
        return _metadata(destination.url)
    return "" if accepts(destination.host, destination.port, timeout_s=3) else "nothing answers"


def _associates(site: Site, port: int) -> bool:
    """True when Hilum's own front door answers an association request, be it by turning a stranger away."""
    own = DicomDestination(name="own", kind="dicom", ae_title=site.ae_title, host=dicom_host(site), port=port)
    return _echo(site.ae_title, own) in ("", "rejected the association")


def _echo(calling: str, destination: DicomDestination) -> str:
    from hilum.adapters.dicom.implementation import own_entity

    entity = own_entity(calling)
    entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = 5
    entity.add_requested_context("1.2.840.10008.1.1")  # Verification
    association = entity.associate(destination.host, destination.port, ae_title=destination.ae_title)
    if not association.is_established:
        return "rejected the association" if association.is_rejected else "no association could be made"
    status = association.send_c_echo()
    association.release()
    return "" if status and status.Status == 0x0000 else "C-ECHO was not answered with success"


def _ask(calling: str, archive: DicomArchive | DicomwebArchive) -> str:
    """Empty when the archive answers, else what happened."""
    if isinstance(archive, DicomArchive):
        place = DicomDestination(
            name=archive.name, kind="dicom", ae_title=archive.ae_title, host=archive.host, port=archive.port
        )
        return _echo(calling, place)
    return _get(f"{archive.url.rstrip('/')}/studies?limit=1", "application/dicom+json", "QIDO-RS")


def _metadata(url: str) -> str:
    return _get(f"{url.rstrip('/')}/metadata", "application/fhir+json", "GET metadata")


def _get(url: str, accept: str, what: str) -> str:
    import httpx

    try:
        response = httpx.get(url, timeout=5, headers={"Accept": accept})
    except httpx.HTTPError as error:
        return f"no answer ({type(error).__name__})"
    return "" if response.status_code < 400 else f"{what} was answered with {response.status_code}"
