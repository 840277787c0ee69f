"""Who may open an association."""

import pytest

from hilum.runtime.config import Peer
from hilum_listener.handlers.peers import Refusal, refusal


def ask(
    *, called: str = "HILUM", calling: str = "CT1", address: str = "10.0.0.5", peers: tuple[Peer, ...] = ()
) -> object:
    return refusal(
        called_ae=called,
        calling_ae=calling,
        address=address,
        own_ae="HILUM",
        peers=peers,
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
    assert ask(peers=peers) is None
    assert ask(peers=peers, address="::ffff:10.0.0.5") is None
    assert ask(peers=peers, address="10.0.0.6") is Refusal.CALLING_AE
    assert ask(peers=(Peer(ae_title="CT1", host="gone.example"),)) is Refusal.CALLING_AE
