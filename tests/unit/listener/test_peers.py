"""Who may open an association."""

from pathlib import Path

import pytest

from hilum.runtime.config import Peer
from hilum_listener.handlers.peers import PeerLimits, Refusal, admit, admit_by_host


def ask(
    *,
    called: str = "HILUM",
    calling: str = "CT1",
    address: str = "10.0.0.5",
    peers: tuple[Peer, ...] = (),
    shown: bytes | None = None,
) -> object:
    return admit(
        called_ae=called,
        calling_ae=calling,
        address=address,
        own_ae="HILUM",
        peers=peers,
        certificate=shown,
        certificate_of=lambda peer: peer.certificate.name.encode() if peer.certificate else None,
        addresses_of=lambda host: frozenset({"10.0.0.5"}) if host == "ct.example" else frozenset(),
    )


def test_spaces_around_an_ae_title_do_not_count_and_its_case_does() -> None:
    assert ask(called="  HILUM  ", address="127.0.0.1") is None
    assert ask(called="hilum", address="127.0.0.1") is Refusal.CALLED_AE


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1"])
def test_without_peers_callers_on_this_machine_are_known(address: str) -> None:
    assert ask(address=address) is None


@pytest.mark.parametrize("address", ["10.0.0.5", "::ffff:10.0.0.5", "fe80::1%eth0", "", "localhost.evil.example"])
def test_without_peers_callers_elsewhere_are_not(address: str) -> None:
    assert ask(address=address) is Refusal.CALLING_AE


def test_with_peers_an_unknown_title_is_refused_on_this_machine_too() -> None:
    assert ask(calling="CT2", address="127.0.0.1", peers=(Peer(ae_title="CT1"),)) is Refusal.CALLING_AE


def test_a_known_title_from_another_host_is_refused() -> None:
    peers = (Peer(ae_title="CT1", host="ct.example"),)
    assert ask(peers=peers) is peers[0]
    assert ask(peers=peers, address="::ffff:10.0.0.5") is peers[0]
    assert ask(peers=peers, address="10.0.0.6") is Refusal.CALLING_AE
    assert ask(peers=(Peer(ae_title="CT1", host="gone.example"),)) is Refusal.CALLING_AE


def test_a_peer_with_a_certificate_must_show_exactly_that_one() -> None:
    peers = (Peer(ae_title="CT1", certificate=Path("ct1")), Peer(ae_title="CT2"))
    assert ask(peers=peers, shown=b"ct1") is peers[0]
    assert ask(peers=peers, shown=b"other") is Refusal.CALLING_AE
    assert ask(peers=peers) is Refusal.CALLING_AE
    assert ask(peers=peers, calling="CT2") is peers[1]


def test_a_peer_may_have_so_many_associations_at_a_time_and_so_many_new_ones_a_minute() -> None:
    limits = PeerLimits()
    peer = Peer(ae_title="CT1", max_associations=2, max_associations_per_min=3)
    assert limits.take(peer, open_now=1, now_s=100.0) is None
    assert limits.take(peer, open_now=2, now_s=101.0) is Refusal.LOCAL_LIMIT
    assert limits.take(peer, open_now=0, now_s=102.0) is None
    assert limits.take(peer, open_now=0, now_s=103.0) is None
    assert limits.take(peer, open_now=0, now_s=159.9) is Refusal.CONGESTION
    assert limits.take(peer, open_now=0, now_s=160.0) is None
    assert limits.take(Peer(ae_title="CT2"), open_now=500, now_s=160.0) is None


def by_host(*, address: str = "10.0.0.5", peers: tuple[Peer, ...] = (), shown: bytes | None = None) -> object:
    return admit_by_host(
        address=address,
        peers=peers,
        certificate=shown,
        certificate_of=lambda peer: peer.certificate.name.encode() if peer.certificate else None,
        addresses_of=lambda host: frozenset({"10.0.0.5"}) if host == "ct.example" else frozenset(),
    )


def test_over_http_without_peers_only_this_machine_may_send() -> None:
    assert by_host(address="127.0.0.1") is None
    assert by_host(address="10.0.0.5") is Refusal.CALLING_AE


def test_over_http_a_peer_is_known_by_its_host() -> None:
    known, elsewhere = Peer(ae_title="CT1", host="ct.example"), Peer(ae_title="CT2", host="other.example")
    assert by_host(peers=(elsewhere, known)) is known
    assert by_host(address="10.0.0.6", peers=(elsewhere, known)) is Refusal.CALLING_AE
    assert by_host(address="127.0.0.1", peers=(known,)) is Refusal.CALLING_AE


def test_over_http_an_ae_title_alone_admits_nobody() -> None:
    assert by_host(peers=(Peer(ae_title="CT1"),)) is Refusal.CALLING_AE


def test_over_http_a_peer_with_a_certificate_must_show_it_and_may_then_come_from_anywhere_it_may() -> None:
    anywhere = Peer(ae_title="CT1", certificate=Path("ct1"))
    there = Peer(ae_title="CT2", host="ct.example", certificate=Path("ct2"))
    assert by_host(peers=(anywhere, there), shown=b"ct1") is anywhere
    assert by_host(peers=(anywhere, there), shown=b"ct2") is there
    assert by_host(peers=(anywhere, there), shown=b"ct2", address="10.0.0.6") is Refusal.CALLING_AE
    assert by_host(peers=(anywhere, there)) is Refusal.CALLING_AE
    assert by_host(peers=(anywhere, there), shown=b"other") is Refusal.CALLING_AE
