"""Checks of TLS, STOW-RS and the clock: what makes a sender's connection fail though every process is alive."""

import ctypes
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hilum.runtime.config import Peer, Site, Tls
from hilum_standalone.diagnosis.check import Check, note, ok, red
from hilum_standalone.plan import LOOPBACK, accepts

_SOON = timedelta(days=30)
_CLOCK_SLACK = timedelta(minutes=1)
_NOT_SYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)
_TIMEX_BYTES = 512  # struct timex has some 210


def doors(data: Path, site: Site, *, running: bool, now: datetime) -> Iterator[Check]:
    """`now` is this machine's clock, in UTC."""
    yield clock(data, now)
    tls = site.listener.tls
    if tls is not None:
        yield from _own_certificate(tls, site.peers, now)
        if running:
            yield _tls_port(tls)
    for peer in site.peers:
        if peer.certificate is not None:
            yield _dates(f"Certificate of {peer.ae_title}", peer.certificate, now)
    if running:
        yield from _stow(data, site)


def clock(data: Path, now: datetime) -> Check:
    """Whether time has gone backwards since something was written here, and whether anybody sets this clock."""
    latest = _latest(data / "spool" / "journal")
    if latest is not None and latest > now + _CLOCK_SLACK:
        behind = str(latest - now).split(".")[0]
        return red("Clock", f"{behind} behind the last journal", "set it, and have it kept by NTP")
    if _state_of_clock() == _NOT_SYNCHRONISED:
        return note(
            "Clock", f"{now:%Y-%m-%d %H:%M:%S} UTC, synchronised by nobody", "have it kept by NTP (systemd-timesyncd)"
        )
    return ok("Clock", f"{now:%Y-%m-%d %H:%M:%S} UTC")


def _latest(journal: Path) -> datetime | None:
    try:
        times = [path.stat().st_mtime for path in journal.glob("*.jsonl")]
    except OSError:
        return None
    return datetime.fromtimestamp(max(times), UTC) if times else None


def _state_of_clock() -> int:
    """What adjtimex(2) returns; -1 where it may not be asked."""
    try:
        return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    except (OSError, AttributeError):
        return -1


def _own_certificate(tls: Tls, peers: tuple[Peer, ...], now: datetime) -> Iterator[Check]:
    from hilum_listener.transport.certificates import CertificateUnusable, server_context

    try:
        server_context(tls, peers)
    except CertificateUnusable as error:
        yield red("TLS", str(error), "mend [listener.tls] or the peer's certificate in hilum.toml")
        return
    yield _dates("TLS certificate", tls.certificate, now)


def _dates(what: str, path: Path, now: datetime) -> Check:
    from hilum_listener.transport.certificates import CertificateUnusable, certificate_der, valid_between

    try:
        first, last = valid_between(certificate_der(path))
    except CertificateUnusable as error:
        return red(what, str(error), "give the path of a PEM certificate")
    if now < first:
        return red(what, f"valid only from {first:%Y-%m-%d %H:%M} UTC on", "look at the clock, or wait")
    if now > last:
        return red(what, f"expired on {last:%Y-%m-%d}", "renew it, then restart Hilum")
    if now > last - _SOON:
        return note(what, f"expires on {last:%Y-%m-%d}", "renew it, then restart Hilum")
    return ok(what, f"valid until {last:%Y-%m-%d}")


def _tls_port(tls: Tls) -> Check:
    """A handshake as a peer would make it, which wants the configured certificate and no other."""
    from hilum_listener.transport.certificates import CertificateUnusable, client_context

    where = f"{LOOPBACK}:{tls.port}"
    try:
        context = client_context(tls.certificate, tls)
        with (
            socket.create_connection((LOOPBACK, tls.port), timeout=5) as raw,
            context.wrap_socket(raw) as connection,
        ):
            return ok("DICOM TLS port", f"answers on {where} with {connection.version()}")
    except ssl.SSLError as error:
        return red(
            "DICOM TLS port",
            f"no handshake on {where}: {error.reason or error.strerror or type(error).__name__}",
            "restart Hilum if the certificate was renewed; look at its dates above",
        )
    except (OSError, CertificateUnusable):
        return red("DICOM TLS port", f"nothing answers on {where}", "see scp.log in the data folder's logs")


def _stow(data: Path, site: Site) -> Iterator[Check]:
    try:
        port = int((data / "run" / "stow.port").read_text())
    except (OSError, ValueError):
        if site.listener.stow is not None:
            yield red("STOW-RS", "no port is known", f"see {data / 'logs' / 'stow'}.log")
        return
    secure = "https" if site.listener.tls is not None else "http"
    if accepts(LOOPBACK, port):
        yield ok("STOW-RS", f"answers on {secure}://{LOOPBACK}:{port}/studies")
    elif site.listener.stow is not None:
        yield red("STOW-RS", f"nothing answers on {LOOPBACK}:{port}", f"see {data / 'logs' / 'stow'}.log")
