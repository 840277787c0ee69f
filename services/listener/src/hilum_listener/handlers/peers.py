"""Who may open an association."""

import ipaddress
import socket
from collections.abc import Callable, Sequence
from enum import Enum

from hilum.runtime.config import Peer


class Refusal(Enum):
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

    CALLED_AE = (1, 1, 7)
    CALLING_AE = (1, 1, 3)


def resolve(host: str) -> frozenset[str]:
    """Every address of a host name; empty when it is not known."""
    try:
        return frozenset(str(info[4][0]) for info in socket.getaddrinfo(host, None))
    except OSError:
        return frozenset()


def refusal(
    *,
    called_ae: str,
    calling_ae: str,
    address: str,
    own_ae: str,
    peers: Sequence[Peer],
    addresses_of: Callable[[str], frozenset[str]] = resolve,
) -> Refusal | None:
    """None when the association may be opened.

    AE titles are compared without leading and trailing spaces, with their case (PS3.5 table 6.2-1). Without any
    configured peer, callers on this machine are known and others are not.
    """
    if called_ae.strip() != own_ae.strip():
        return Refusal.CALLED_AE
    if not peers:
        return None if is_loopback(address) else Refusal.CALLING_AE
    for peer in peers:
        if peer.ae_title.strip() == calling_ae.strip() and _from(address, peer, addresses_of):
            return None
    return Refusal.CALLING_AE


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
