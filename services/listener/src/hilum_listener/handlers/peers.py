"""Who may open an association."""

import ipaddress
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Enum

from hilum.runtime.config import Peer


class Refusal(Enum):
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

    CALLED_AE = (1, 1, 7)
    CALLING_AE = (1, 1, 3)
    LOCAL_LIMIT = (2, 3, 2)
    CONGESTION = (2, 3, 1)


def resolve(host: str) -> frozenset[str]:
    """Every address of a host name; empty when it is not known."""
    try:
        return frozenset(str(info[4][0]) for info in socket.getaddrinfo(host, None))
    except OSError:
        return frozenset()


def admit(
    *,
    called_ae: str,
    calling_ae: str,
    address: str,
    own_ae: str,
    peers: Sequence[Peer],
    certificate: bytes | None = None,
    certificate_of: Callable[[Peer], bytes | None] = lambda _peer: None,
    addresses_of: Callable[[str], frozenset[str]] = resolve,
) -> Peer | Refusal | None:
    """The peer that calls, why it is refused, or None for a caller on this machine while no peer is configured.

    AE titles are compared without leading and trailing spaces, with their case (PS3.5 table 6.2-1). `certificate` is
    the one that the caller showed (DER; None without TLS or without one), `certificate_of` the one a peer must show.
    """
    if called_ae.strip() != own_ae.strip():
        return Refusal.CALLED_AE
    if not peers:
        return None if is_loopback(address) else Refusal.CALLING_AE
    for peer in peers:
        expected = certificate_of(peer)
        if (
            peer.ae_title.strip() == calling_ae.strip()
            and (expected is None or expected == certificate)
            and _from(address, peer, addresses_of)
        ):
            return peer
    return Refusal.CALLING_AE


def admit_by_host(
    *,
    address: str,
    peers: Sequence[Peer],
    certificate: bytes | None = None,
    certificate_of: Callable[[Peer], bytes | None] = lambda _peer: None,
    addresses_of: Callable[[str], frozenset[str]] = resolve,
) -> Peer | Refusal | None:
    """As `admit`, for HTTP, where nobody says an AE title: a peer is known by its certificate, or else by its host.

    A peer that is configured with neither is admitted by its AE title alone, so over HTTP never.
    """
    if not peers:
        return None if is_loopback(address) else Refusal.CALLING_AE
    for peer in peers:
        expected = certificate_of(peer)
        known = expected == certificate if peer.certificate is not None else peer.host is not None
        if known and _from(address, peer, addresses_of):
            return peer
    return Refusal.CALLING_AE


class PeerLimits:
    """Says when a peer opens too many associations. Not synchronised; what one process counts (`SharedLimits`: all)."""

    def __init__(self) -> None:
        self._opened_s: dict[Peer, deque[float]] = {}

    def take(self, peer: Peer, *, open_now: int, now_s: float) -> Refusal | None:
        """Counts one association in, or says why it is one too many.

        `open_now`: the peer's associations at this moment, without the new one; `now_s`: a monotonic clock, seconds.
        """
        if peer.max_associations is not None and open_now >= peer.max_associations:
            return Refusal.LOCAL_LIMIT
        if peer.max_associations_per_min is not None and not self._opened(peer, now_s):
            return Refusal.CONGESTION
        return None

    def exclusive(self) -> AbstractContextManager[None]:
        """Between the look at what is open and the new association's count no other process may count one."""
        return nullcontext()

    def elsewhere(self, peer: Peer | None = None) -> int:
        """Associations that are open in other processes, of one peer or in all."""
        return 0

    def publish(self, total: int, by_peer: Mapping[Peer, int]) -> None:
        """What is open in this process now."""

    def _opened(self, peer: Peer, now_s: float) -> bool:
        assert peer.max_associations_per_min is not None
        opened = self._opened_s.setdefault(peer, deque())
        while opened and now_s - opened[0] >= 60.0:
            opened.popleft()
        if len(opened) >= peer.max_associations_per_min:
            return False
        opened.append(now_s)
        return True


def _from(address: str, peer: Peer, addresses_of: Callable[[str], frozenset[str]]) -> bool:
    return peer.host is None or _plain(address) in {_plain(known) for known in addresses_of(peer.host)}


def is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(_plain(address)).is_loopback
    except ValueError:
        return False


def _plain(address: str) -> str:
    """Without a zone, and an IPv4 address that came mapped into IPv6 as IPv4."""
    address = address.split("%")[0]
    return address.removeprefix("::ffff:") if "." in address else address
