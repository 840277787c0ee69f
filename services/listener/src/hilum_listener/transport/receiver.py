"""A receiving process from its start to its end: alone on its port, or one of several that a crew has started."""

import socket
import threading
from collections.abc import Callable, Sequence

from hilum.ports.clock import Clock
from hilum.runtime.logs import Log
from hilum_listener.handlers.desk import Desk
from hilum_listener.handlers.journal import JournalWriter
from hilum_listener.handlers.notices import NoticeStore
from hilum_listener.handlers.offers import Offers
from hilum_listener.handlers.receiver_lock import lock, publish_port
from hilum_listener.handlers.shared_limits import SharedLimits
from hilum_listener.handlers.spool import Spool
from hilum_listener.settings import Places, ScpSettings
from hilum_listener.transport.certificates import server_context
from hilum_listener.transport.crew import Command, Crew
from hilum_listener.transport.scp import Scp, listening

_LOG = Log("hilum.listener")
_LIMITS = "scp.limits"

Receiving = Callable[[threading.Event], None]


def alone(places: Places, settings: ScpSettings, journal: Callable[[], JournalWriter], clock: Clock) -> Receiving:
    """Listens; what is returned serves until its event is set.

    Raises:
        AlreadyRunning: another process receives into this folder.
        CertificateUnusable: of TLS.
        OSError: an address is taken, or the folder can't be written.
    """
    lock(places.run)
    spool = Spool(places, min_free_bytes=settings.min_free_bytes)
    left = spool.clean()
    run = _listening(places, settings, spool, journal(), clock, lambda port: publish_port(places.run, port))
    _tell(left, settings)
    return run


def one_of_several(
    places: Places, settings: ScpSettings, journal: Callable[[], JournalWriter], clock: Clock, share: Sequence[int]
) -> Receiving:
    """As `alone`, on sockets that are there. `share`: the number of this process, and the sockets' descriptors."""
    limits = SharedLimits(places.run / _LIMITS, settings.peers, processes=settings.processes, row=share[0])
    spool = Spool(places, min_free_bytes=settings.min_free_bytes)
    sockets = [socket.socket(fileno=fd) for fd in share[1:]]
    return _listening(places, settings, spool, journal(), clock, lambda _port: None, limits, sockets)


def several(places: Places, settings: ScpSettings, command: Command) -> Receiving:
    """As `alone`, but the processes that `command` starts receive."""
    lock(places.run)
    if settings.tls is not None:
        server_context(settings.tls, settings.peers)  # without it none of them could start
    left = Spool(places, min_free_bytes=settings.min_free_bytes).clean()
    SharedLimits.create(places.run / _LIMITS, settings.peers, processes=settings.processes)
    limits = SharedLimits(places.run / _LIMITS, settings.peers, processes=settings.processes, row=0)
    sockets = listening(settings)
    publish_port(places.run, sockets[0].getsockname()[1])
    _tell(left, settings)
    return Crew(command, sockets, limits, settings.processes).run


def _listening(
    places: Places,
    settings: ScpSettings,
    spool: Spool,
    journal: JournalWriter,
    clock: Clock,
    publish: Callable[[int], None],
    limits: SharedLimits | None = None,
    sockets: Sequence[socket.socket] = (),
) -> Receiving:
    spool.prepare()
    desk = Desk(NoticeStore(places), journal, clock.now)
    server = Scp(settings, spool, journal, clock, desk=desk, offers=Offers(places.run), limits=limits)
    port = server.start(sockets)
    publish(port)
    _LOG.info("listening", port=port, address=settings.host)

    def run(stop: threading.Event) -> None:
        stop.wait()
        server.stop()
        spool.close()
        journal.close()
        _LOG.info("stopped")

    return run


def _tell(left: int, settings: ScpSettings) -> None:
    if left:
        _LOG.warning("removed half-written files", count=left)
    if not settings.peers:
        _LOG.warning("no peers configured: callers on this machine are accepted under any AE title, others refused")
