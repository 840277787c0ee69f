"""What Hilum answers for, why not for the rest, and that its reports arrive once."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset

from hilum.adapters.sql.tables import commitment_requests, commitments, committed_elsewhere
from hilum.domain.identity import derive_uid
from hilum.runtime.config import Peer
from hilum.testing.dicom_files import chest_image
from hilum_listener.handlers import commitment
from hilum_listener.handlers.attributes import Answer, ServiceRequest
from hilum_listener.handlers.commitment import MODEL_INSTANCE, Delivery, Outgoing
from hilum_listener.handlers.desk import Desk, answer
from hilum_listener.handlers.offers import Offer, Offers, key_of
from hilum_listener.handlers.reports import Reporter, pause
from hilum_listener.handlers.verdicts import Held, failure_reason
from hilum_listener.testing import QUIET, Listener, stored_files
from hilum_listener.testing_services import asks_for, reports_on, service_request

CR, CT = "1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.2"
CLASS = st.sampled_from([CR, CT])
HELD = st.builds(Held, CLASS | st.just(""), st.booleans(), st.booleans(), CLASS | st.just(""))


def uid(name: str) -> str:
    return str(chest_image(np.zeros((2, 2), np.uint8), name=name).SOPInstanceUID)


def ask(listener: Listener, transaction: str, *names: str, sop_class: str = CR, calling: str = "MODALITY") -> None:
    def service(request: ServiceRequest, desk: Desk) -> Answer:
        return commitment.ask(request, desk, action_type=1)

    asked = asks_for(transaction, [(sop_class, uid(name)) for name in names])
    request = service_request(asked, uid=MODEL_INSTANCE, calling=calling)
    assert answer(service, request, listener.desk).status == 0x0000


def hear(listener: Listener, dataset: Dataset, *, event: int, calling: str) -> None:
    def service(request: ServiceRequest, desk: Desk) -> Answer:
        return commitment.reported(request, desk, event_type=event)

    request = service_request(dataset, uid=MODEL_INSTANCE, calling=calling)
    assert answer(service, request, listener.desk).status == 0x0000


def archive(listener: Listener, *, is_archive: bool = True, pacs: Sequence[str] = ()) -> Listener:
    listener.settings = replace(listener.settings, archive=is_archive, pacs_ae_titles=frozenset(pacs))
    listener.assembler = listener.new_assembler()
    return listener


def report(listener: Listener) -> tuple[list[str], dict[str, int]]:
    """Committed instances and failure reasons of the only request."""
    (row,) = listener.rows(commitment_requests)
    assert row.state == "due"
    return [one[1] for one in row.report["committed"]], {one[1]: one[2] for one in row.report["failed"]}


@given(CLASS, HELD, st.booleans())
def test_only_what_is_here_whole_undoubted_under_its_class_is_committed_and_only_by_an_archive_or_the_pacs(
    sop_class: str, held: Held, is_archive: bool
) -> None:
    reason = failure_reason(sop_class, held, archive=is_archive)
    kept_here = is_archive and held.whole and not held.doubted and held.sop_class_uid == sop_class
    assert (reason is None) == (kept_here or held.pacs_class_uid == sop_class)
    assert reason in (None, 0x0110, 0x0112, 0x0119)


def test_an_archive_commits_what_it_holds_and_says_why_not_the_rest(listener: Listener) -> None:
    archive(listener).image(name="here")
    ask(listener, "t", "here", "nowhere")
    listener.step()
    assert report(listener) == ([uid("here")], {uid("nowhere"): 0x0112})
    (row,) = listener.rows(commitments)
    assert (row.sop_instance_uid, row.basis) == (uid("here"), "archive")
    assert row.transaction_uid == derive_uid("transaction", "t")


def test_another_class_than_the_one_it_has_is_a_conflict(listener: Listener) -> None:
    archive(listener).image(name="here")
    ask(listener, "t", "here", sop_class=CT)
    listener.step()
    assert report(listener) == ([], {uid("here"): 0x0119})
    assert listener.rows(commitments) == []


def test_what_is_no_archive_commits_nothing(listener: Listener) -> None:
    archive(listener, is_archive=False).image(name="here")
    ask(listener, "t", "here")
    listener.step()
    assert report(listener) == ([], {uid("here"): 0x0110})
    assert listener.rows(commitments) == []


@pytest.mark.parametrize(("speaker", "committed"), [("PACS", True), ("STRANGER", False)])
def test_what_the_pacs_itself_has_committed_counts_and_nobody_elses_word_does(
    listener: Listener, speaker: str, committed: bool
) -> None:
    archive(listener, is_archive=False, pacs=["PACS"]).image(name="here")
    told = reports_on("other", [(CR, uid("here"))], [(CR, uid("lost"), 0x0112)])
    hear(listener, told, event=2, calling=speaker)
    ask(listener, "t", "here", "lost")
    listener.step()
    assert report(listener) == (
        ([uid("here")], {uid("lost"): 0x0112}) if committed else ([], {uid("here"): 0x0110, uid("lost"): 0x0112})
    )
    assert [row.basis for row in listener.rows(commitments)] == (["pacs"] if committed else [])
    assert len(listener.rows(committed_elsewhere)) == 2


def test_a_file_that_is_gone_or_cut_short_is_not_committed(listener: Listener) -> None:
    archive(listener).image(name="here")
    listener.step()
    for path in stored_files(listener.places.spool):
        path.write_bytes(path.read_bytes()[:-2])
    ask(listener, "t", "here")
    listener.step()
    assert report(listener) == ([], {uid("here"): 0x0112})


def test_a_sender_whose_bytes_are_in_quarantine_must_keep_its_copy(listener: Listener) -> None:
    archive(listener).image(name="here", calling="OTHER")
    listener.image(name="here", calling="MODALITY", PatientName="Coerced^Name")
    ask(listener, "t", "here", calling="MODALITY")
    listener.step()
    assert report(listener) == ([], {uid("here"): 0x0110})


def test_instances_that_are_journaled_before_the_request_are_folded_before_it_is_decided(listener: Listener) -> None:
    archive(listener)
    names = [f"image {n}" for n in range(40)]
    for name in names:
        listener.image(name=name)
    ask(listener, "t", *names)
    listener.step()
    assert report(listener) == ([uid(name) for name in names], {})


def test_the_same_request_again_changes_nothing(listener: Listener) -> None:
    archive(listener)
    for _ in range(2):
        ask(listener, "t", "late")
        listener.step()
        listener.image(name="late")
    assert report(listener) == ([], {uid("late"): 0x0112})


class Port:
    """A requester's port: what it got, and when it is there."""

    def __init__(self, *, away: int = 0) -> None:
        self.away = away
        self.got: list[tuple[str, str | None, int | None]] = []

    def send(self, outgoing: Outgoing, peer: Peer) -> Delivery:
        if self.away:
            self.away -= 1
            return Delivery(False, "no association")
        self.got.append((outgoing.transaction_uid, peer.host, peer.port))
        return Delivery(True)


def reporter(listener: Listener, port: Port, *, peer_port: int | None = 104) -> Reporter:
    peers = [Peer(ae_title="OTHER", host="other", port=1), Peer(ae_title="MODALITY ", host="ct1", port=peer_port)]
    offers = Offers(listener.places.run)
    return Reporter(listener.engine, listener.clock, peers, offers, port, offered_s=0)


def decided(listener: Listener, *transactions: str) -> None:
    archive(listener).image(name="here")
    for transaction in transactions or ("t",):
        ask(listener, transaction, "here")
    listener.step()


def test_a_report_goes_to_the_requesters_port_again_and_again_until_it_is_acknowledged_and_then_never(
    listener: Listener,
) -> None:
    decided(listener)
    port = Port(away=3)
    for attempt in (1, 2, 3):
        assert reporter(listener, port).step()
        assert not reporter(listener, port).step(), "not before its time"
        (row,) = listener.rows(commitment_requests)
        assert (row.state, row.attempts, row.reason) == ("due", attempt, "no association")
        listener.clock.advance(pause(attempt))
    assert reporter(listener, port).step()
    listener.clock.advance(timedelta(days=9))
    assert not reporter(listener, port).step()
    assert port.got == [(derive_uid("transaction", "t"), "ct1", 104)]
    assert [(row.state, row.reason) for row in listener.rows(commitment_requests)] == [("delivered", "")]


def test_a_report_for_someone_without_a_port_waits_and_says_why(listener: Listener) -> None:
    decided(listener)
    reporter(listener, Port(), peer_port=None).step()
    (row,) = listener.rows(commitment_requests)
    assert row.reason == "its association has ended, and no host and port are configured for its AE title"
    listener.clock.advance(QUIET)
    assert reporter(listener, port := Port()).step(), "the configuration was completed"
    assert len(port.got) == 1


def test_a_requester_that_is_away_holds_its_other_reports_back_and_nobody_elses(listener: Listener) -> None:
    decided(listener, "1", "2", "3")
    ask(listener, "4", "here", calling="OTHER")
    listener.step()
    port = Port(away=1)
    one = reporter(listener, port)
    while one.step():
        pass
    assert [got[1] for got in port.got] == ["other"]


def test_a_report_that_a_killed_process_had_claimed_is_taken_up_when_its_lease_ends(listener: Listener) -> None:
    decided(listener)

    class Killed(Port):
        def send(self, outgoing: Outgoing, peer: Peer) -> Delivery:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reporter(listener, Killed()).step()
    port = Port()
    assert not reporter(listener, port).step()
    listener.clock.advance(timedelta(seconds=90))
    assert reporter(listener, port).step()
    assert len(port.got) == 1


def test_a_report_that_went_out_on_its_own_association_is_not_sent_again_though_a_kill_kept_that_from_the_index(
    listener: Listener,
) -> None:
    decided(listener)
    offers = Offers(listener.places.run)
    (row,) = listener.rows(commitment_requests)
    offers.make(Offer(key_of(row.notice, 7), row.association, row.transaction_uid, row.report))
    assert offers.take(key_of(row.notice, 7))
    offers.settle(key_of(row.notice, 7), delivered=True)
    port = Port()
    assert reporter(listener, port).step()
    assert port.got == []
    assert [row.state for row in listener.rows(commitment_requests)] == ["delivered"]
    assert offers.pending() == []


def test_an_offer_is_taken_or_withdrawn_and_never_both(tmp_path: Path) -> None:
    offers, key = Offers(tmp_path), key_of("ab" * 20, 1)
    offers.make(Offer(key, "a-1", "1.2", {"committed": [], "failed": []}))
    assert [offer.association for offer in offers.pending()] == ["a-1"]
    assert offers.take(key)
    assert not offers.withdraw(key)
    assert offers.outcome(key) is None
    offers.settle(key, delivered=False)
    assert offers.outcome(key) is False
    offers.clear("ab" * 20)
    offers.make(Offer(key, "a-1", "1.2", {"committed": [], "failed": []}))
    assert offers.withdraw(key)
    assert not offers.take(key)


@given(st.integers(1, 10_000))
def test_pauses_grow_to_five_minutes_and_no_further(attempts: int) -> None:
    assert timedelta(seconds=2) <= pause(attempts) <= pause(attempts + 1) <= timedelta(minutes=5)
