"""`python -m hilum_listener ROLE… --data DIR`: runs one or more of the roles as threads."""

import argparse
import os
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hilum.ports.clock import SystemClock
from hilum.runtime import logs
from hilum.runtime.cluster import SecretMissing
from hilum.runtime.config import AnyArchive, ConfigError, Site, load
from hilum.runtime.health import Health
from hilum.runtime.lifecycle import announce_ready, stop_on_signals, stop_with_parent
from hilum_listener.handlers.journal import JournalWriter
from hilum_listener.handlers.offers import Offers
from hilum_listener.handlers.receiver_lock import AlreadyRunning, lock, publish_port
from hilum_listener.handlers.spool import Spool
from hilum_listener.handlers.spool_name import spool_name
from hilum_listener.settings import (
    AssembleSettings,
    CommitSettings,
    FetchSettings,
    Places,
    RouteSettings,
    ScpSettings,
    StowSettings,
)
from hilum_listener.transport.certificates import CertificateUnusable, certificate_der

if TYPE_CHECKING:
    from hilum_listener.handlers.archive import Archive
    from hilum_listener.handlers.fetch_bring import Source
    from hilum_listener.state import State

_LOG = logs.Log("hilum.listener")
_JOIN_S = 9.5
_SIGNAL_S = 0.2
_CLOCK = SystemClock()

# Each role imports its own libraries: a receiver without pydicom's dictionary or SQLAlchemy is half as large.

ROLES = ("scp", "stow", "assemble", "route", "commit", "fetch")
Role = Callable[[threading.Event], None]


class CannotStart(Exception):
    """The address is taken, the data folder can't be written or another process has it."""


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 stopped, 1 a role crashed, 2 it can't start as it is configured."""
    given = _parse(arguments)
    logs.configure("listener")
    warnings.simplefilter("ignore")  # pydicom's name values of the data set, which may be a patient's
    try:
        site = load(given.config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    places = Places(given.data)
    stop = stop_on_signals()
    stop_with_parent(stop)
    if "fetch" in given.roles and len(set(given.roles)) > 1:
        print("fetch runs in a process of its own", file=sys.stderr)
        return 2
    try:
        roles = _roles(given, places, site)
    except SecretMissing as error:
        print(error, file=sys.stderr)
        return 2
    return run_roles(roles, stop)


def _roles(given: argparse.Namespace, places: Places, site: Site) -> dict[str, Role]:
    """What this process runs, and with which adapters: those of one machine, or of `[cluster]`.

    Raises:
        SecretMissing: a password can't be read.
    """
    roles: dict[str, Role] = {}
    if "scp" in given.roles:
        if not given.share:
            roles["health of scp"] = _health(places, "scp")
        roles["scp"] = _scp(places, ScpSettings.of(site, port=given.port), given)
    if "stow" in given.roles:
        stow = StowSettings.of(site, port=given.http_port)
        roles["health of stow"] = _health(places, "stow")
        roles["stow"] = _stow(Places(given.data, incoming_name="incoming-stow"), stow)
    if "fetch" in given.roles:
        roles["fetch"] = _fetch(Places(given.data, incoming_name="incoming-fetch"), site)
    if {"assemble", "route", "commit"} & set(given.roles):
        places.data.mkdir(parents=True, exist_ok=True)
        roles.update(_database_roles(given.roles, places, site))
    return roles


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hilum_listener", description="Receives, assembles and routes studies.")
    parser.add_argument("roles", nargs="+", choices=ROLES, metavar="|".join(ROLES))
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--config", type=Path, help="hilum.toml")
    parser.add_argument("--port", type=int, default=11112, help="where scp listens; 0 takes a free one")
    parser.add_argument(
        "--http-port", type=int, help="where stow listens, instead of the configured port; 0: a free one"
    )
    parser.add_argument("--share", type=int, nargs="+", metavar="N", help=argparse.SUPPRESS)  # as `_scp` calls it
    return parser.parse_args(arguments)


def _journal(places: Places) -> JournalWriter:
    return JournalWriter(places.journal, started_at=_CLOCK.now(), spool=spool_name(places.spool))


def _scp(places: Places, settings: ScpSettings, given: argparse.Namespace) -> Role:
    from hilum_listener.transport import receiver

    def command(number: int, fds: Sequence[int]) -> list[str]:
        words = [sys.executable, "-m", "hilum_listener", "scp", "--data", str(given.data)]
        words += [] if given.config is None else ["--config", str(given.config)]
        return [*words, "--share", str(number), *map(str, fds)]

    def run(stop: threading.Event) -> None:
        try:
            if given.share:
                receive = receiver.one_of_several(places, settings, lambda: _journal(places), _CLOCK, given.share)
            elif settings.processes > 1:
                receive = receiver.several(places, settings, command)
            else:
                receive = receiver.alone(places, settings, lambda: _journal(places), _CLOCK)
        except (AlreadyRunning, CertificateUnusable, OSError) as error:
            raise CannotStart(str(error)) from error
        receive(stop)

    return run


def _stow(places: Places, settings: StowSettings) -> Role:
    from hilum_listener.transport.stow import StowDoor
    from hilum_listener.transport.stow_server import StowServer

    def run(stop: threading.Event) -> None:
        try:
            lock(places.run, "stow")
            spool = Spool(places, min_free_bytes=settings.min_free_bytes)
            left = spool.clean()
            spool.prepare()
            certificates = {peer: certificate_der(peer.certificate) for peer in settings.peers if peer.certificate}
            journal = _journal(places)
            server = StowServer(settings, StowDoor(settings, spool, journal, _CLOCK, certificates.get).app())
            publish_port(places.run, server.port, "stow")
        except (AlreadyRunning, CertificateUnusable, OSError) as error:
            raise CannotStart(str(error)) from error
        if left:
            _LOG.warning("removed half-written files", count=left)
        if not settings.peers:
            _LOG.warning("no peers configured: only callers on this machine may store")
        _LOG.info("listening", port=server.port, address=settings.host)
        server.run(stop)
        spool.close()
        journal.close()
        _LOG.info("stopped")

    return run


def _database_roles(names: list[str], places: Places, site: Site) -> dict[str, Role]:
    from hilum_listener.state import State

    state = State.of(places.data, site.cluster)
    roles: dict[str, Role] = {"health": _health(places, "index", state)}
    if "assemble" in names:
        roles["assemble"] = _assemble(places, site, state)
    if "route" in names:
        roles["route"] = _route(places, site, state)
    if "commit" in names:
        roles["commit"] = _commit(places, site, state)
    if site.cluster is not None and {"assemble", "route"} & set(names):
        roles["relay"] = _relay(state)
    return roles


def _health(places: Places, name: str, state: "State | None" = None) -> Role:
    """Says in `run/<name>.health` what is waited for; the front door waits for nothing."""

    def run(stop: threading.Event) -> None:
        Health(places.data, name, {} if state is None else state.checks()).start(stop)
        stop.wait()

    return run


def _relay(state: "State") -> Role:
    def run(stop: threading.Event) -> None:
        state.wait(stop)
        state.events.run_relay(stop, _LOG)

    return run


def _assemble(places: Places, site: Site, state: "State") -> Role:
    from hilum.adapters.folder import FolderInstances
    from hilum.adapters.instances import open_instances
    from hilum_listener.handlers.assemble import Assembler
    from hilum_listener.handlers.store_removals import StoreRemovals
    from hilum_listener.handlers.uploads import Uploads
    from hilum_listener.handlers.watermarks import watermarks_of
    from hilum_listener.transport.archive_counts import ArchiveCounts

    engine, clock = state.engine, state.clock
    store = open_instances(places.data, state.cluster) if state.cluster is not None else None

    def run(stop: threading.Event) -> None:
        state.wait(stop)
        if stop.is_set():
            return
        announce_ready(places.data, "assemble")
        archives = [_archive(archive, site.ae_title.strip()) for archive in site.archives]
        counts = ArchiveCounts(archives, clock) if archives else None
        if counts is not None:
            counts.start()
        uploads = None
        if store is not None:
            uploads = Uploads(FolderInstances(places.spool), store, engine, clock)
            uploads.start(stop)
            StoreRemovals(store, engine, clock).start(stop)
        settings = AssembleSettings.of(site)
        Assembler(
            places,
            settings,
            engine,
            state.events.publisher,
            clock,
            counts,
            store=store,
            uploads=uploads,
            journal_clock=None if store is None else _CLOCK,
            watermarks=watermarks_of(settings.retention, places, engine, state.cluster),
        ).run(stop)

    return run


def _route(places: Places, site: Site, state: "State") -> Role:
    from hilum.adapters.sql.database import transaction
    from hilum.contracts.topics import STUDY_READY
    from hilum.runtime.consume import consume
    from hilum_listener.handlers.route import GROUP, Router

    def run(stop: threading.Event) -> None:
        state.wait(stop)
        router = Router(RouteSettings.of(site).rules, state.events.publisher, state.clock)
        consumer = state.events.consumer(GROUP, [STUDY_READY.name], stop=stop)
        announce_ready(places.data, "route")
        try:
            consume(consumer, router.handle, transaction=lambda: transaction(state.engine), stop=stop, log=_LOG)
        finally:
            consumer.close()

    return run


def _commit(places: Places, site: Site, state: "State") -> Role:
    from hilum_listener.handlers.reports import Reporter
    from hilum_listener.transport.event_report import NewAssociation

    def run(stop: threading.Event) -> None:
        state.wait(stop)
        settings = CommitSettings.of(site)
        sender = NewAssociation(own_ae=settings.ae_title, tls=settings.tls)
        announce_ready(places.data, "commit")
        Reporter(state.engine, state.clock, settings.peers, Offers(places.run), sender).run(stop)

    return run


def _fetch(places: Places, site: Site) -> Role:
    from hilum.adapters.instances import open_instances
    from hilum_listener.handlers.fetch import Fetcher
    from hilum_listener.handlers.fetch_bring import Bringer
    from hilum_listener.state import State
    from hilum_listener.transport.archive_dimse import receive_into_files

    state = State.of(places.data, site.cluster)
    store = open_instances(places.data, site.cluster)

    def run(stop: threading.Event) -> None:
        settings = FetchSettings.of(site)
        try:
            lock(places.run, "fetch")
            spool = Spool(places, min_free_bytes=settings.min_free_bytes)
            left = spool.clean()
            journal = _journal(places)
        except (AlreadyRunning, OSError) as error:
            raise CannotStart(str(error)) from error
        if left:
            _LOG.warning("removed half-written files", count=left)
        receive_into_files(places.incoming)
        Health(places.data, "fetch", state.checks()).start(stop)
        state.wait(stop)
        if stop.is_set():
            return
        sources = _sources(site)
        bringer = Bringer(state.engine, state.clock, settings, spool, journal, stop.wait, journal_clock=_CLOCK)
        fetcher = Fetcher(state.engine, state.clock, sources, settings, store, bringer)
        announce_ready(places.data, "fetch")
        _LOG.info("fetching", count=len(sources))
        fetcher.run(stop)
        spool.close()
        journal.close()

    return run


def _sources(site: Site) -> "list[Source]":
    """The archives that may be retrieved from."""
    from hilum.runtime.config import DicomArchive
    from hilum_listener.handlers.fetch_bring import Source

    own_ae = site.ae_title.strip()
    found = []
    for archive in site.archives:
        if archive.retrieve == "none":
            continue
        calling = archive.ae_title.strip() if isinstance(archive, DicomArchive) else archive.name[:16]
        sender = calling if archive.retrieve == "c-move" else ""
        found.append(Source(archive.name, _archive(archive, own_ae), calling, sender))
    return found


def _archive(archive: AnyArchive, own_ae: str) -> "Archive":
    from hilum.runtime.config import DicomArchive

    if isinstance(archive, DicomArchive):
        from hilum_listener.transport.archive_dimse import DimseArchive

        return DimseArchive(archive, calling_ae=own_ae)
    from hilum_listener.transport.archive_web import WebArchive

    return WebArchive(archive)


def run_roles(roles: dict[str, Role], stop: threading.Event) -> int:
    """Runs each role in a thread until `stop`; the first that fails stops the others."""
    codes: list[int] = []

    def guarded(name: str, role: Role) -> None:
        try:
            role(stop)
        except CannotStart as error:
            _LOG.error("can't start", process=name, reason=str(error))
            codes.append(2)
        except Exception as error:
            _LOG.error("role crashed", process=name, exc_info=error)
            codes.append(1)
        finally:
            stop.set()

    threads = [
        threading.Thread(target=guarded, args=(name, role), name=name, daemon=True) for name, role in roles.items()
    ]
    for thread in threads:
        thread.start()
    while not stop.wait(_SIGNAL_S):  # another thread may have taken the signal; Python handles it when this one wakes
        pass
    for thread in threads:
        thread.join(_JOIN_S)
    return codes[0] if codes else 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # everything is durable by now, and pynetdicom's threads of a hanging peer would keep us here
