"""What steps, notifications and commitment requests said is forgotten in time, and what still matters is kept."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from hilum.adapters.sql.tables import (
    availability_notices,
    commitment_requests,
    commitments,
    committed_elsewhere,
    procedure_steps,
    revisions,
    study_senders,
)
from hilum.domain.identity import derive_uid
from hilum.runtime.config import Peer, Retention
from hilum.testing.dicom_files import chest_image
from hilum_listener.handlers import availability, commitment, mpps
from hilum_listener.handlers.attributes import Answer, ServiceRequest
from hilum_listener.handlers.commitment import MODEL_INSTANCE, Delivery, Outgoing
from hilum_listener.handlers.desk import Desk, Service, answer
from hilum_listener.handlers.notice_retention import LIMIT, forget_notices
from hilum_listener.handlers.offers import Offers
from hilum_listener.handlers.reports import Reporter
from hilum_listener.handlers.tidy import Tidier
from hilum_listener.testing import QUIET, Listener
from hilum_listener.testing_services import asks_for, available, reports_on, service_request, step_begins, step_ends

DAY = timedelta(days=1)
CR = "1.2.840.10008.5.1.4.1.1.1"


def uid(name: str) -> str:
    return str(chest_image(np.zeros((2, 2), np.uint8), name=name).SOPInstanceUID)


def tell(listener: Listener, service: Service, dataset: object, *, uid: str) -> int:
    return answer(service, service_request(dataset, uid=uid), listener.desk).status  # type: ignore[arg-type]


def step(listener: Listener, study: str, *, ends: bool = True) -> None:
    """A study of one image with its procedure step and a notification."""
    assert tell(listener, mpps.create, step_begins(study), uid=derive_uid("step", study)) == 0
    listener.image(study, study)
    if ends:
        done = step_ends([chest_image(np.zeros((8, 8), np.uint16), study=study, name=study)])
        assert tell(listener, mpps.update, done, uid=derive_uid("step", study)) == 0
    there = available([chest_image(np.zeros((8, 8), np.uint16), study=study, name=study)], study=study)
    assert tell(listener, availability.notify, there, uid=derive_uid("notice", study)) == 0


def ask(listener: Listener, transaction: str, names: Sequence[str]) -> int:
    def service(request: ServiceRequest, desk: Desk) -> Answer:
        return commitment.ask(request, desk, action_type=1)

    return tell(listener, service, asks_for(transaction, [(CR, uid(name)) for name in names]), uid=MODEL_INSTANCE)


def hear(listener: Listener, transaction: str, names: Sequence[str]) -> None:
    def service(request: ServiceRequest, desk: Desk) -> Answer:
        return commitment.reported(request, desk, event_type=1)

    told = reports_on(transaction, [(CR, uid(name)) for name in names], [])
    assert tell(listener, service, told, uid=MODEL_INSTANCE) == 0


class Port:
    def __init__(self, *, there: bool) -> None:
        self.there = there

    def send(self, outgoing: Outgoing, peer: Peer) -> Delivery:
        return Delivery(self.there, "")


def report(listener: Listener, *, there: bool = True) -> None:
    peers = [Peer(ae_title="MODALITY", host="ct1", port=104)]
    offers = Offers(listener.places.run)
    Reporter(listener.engine, listener.clock, peers, offers, Port(there=there), offered_s=0).step()


def tidy(listener: Listener, *, days: float | None = 90) -> None:
    settings = replace(listener.settings, retention=Retention(notice_days=days))
    Tidier(listener.places, settings, listener.engine, listener.clock, listener.assembler._tail).step()


def archive(listener: Listener) -> None:
    listener.settings = replace(listener.settings, archive=True, pacs_ae_titles=frozenset({"MODALITY"}))
    listener.assembler = listener.new_assembler()


def test_steps_and_notifications_of_a_study_that_is_complete_are_forgotten_in_time(listener: Listener) -> None:
    step(listener, "study")
    listener.step(after=QUIET)
    assert len(listener.rows(revisions)) == 1
    listener.clock.advance(89 * DAY)
    tidy(listener)
    assert len(listener.rows(procedure_steps)) == len(listener.rows(availability_notices)) == 1
    listener.clock.advance(2 * DAY)
    tidy(listener)
    assert listener.rows(procedure_steps) == listener.rows(availability_notices) == []
    assert len(listener.rows(revisions)) == 1, "the ledger keeps why it was complete"


def test_a_step_whose_study_never_came_is_forgotten_as_well(listener: Listener) -> None:
    assert tell(listener, mpps.create, step_begins("never"), uid="1.2.3") == 0
    listener.step()
    listener.clock.advance(91 * DAY)
    tidy(listener)
    assert listener.rows(procedure_steps) == []


def test_what_speaks_of_a_study_that_is_being_received_stays_however_old_it_is(listener: Listener) -> None:
    listener.settings = replace(listener.settings, max_age=9999 * DAY)
    listener.assembler = listener.new_assembler()
    step(listener, "open", ends=False)
    listener.step()
    listener.clock.advance(200 * DAY)
    listener.step()
    tidy(listener)
    assert len(listener.rows(procedure_steps)) == len(listener.rows(availability_notices)) == 1
    assert len(listener.rows(study_senders)) == 1


def test_without_a_number_of_days_nothing_is_forgotten(listener: Listener) -> None:
    step(listener, "study")
    listener.step(after=QUIET)
    listener.clock.advance(9999 * DAY)
    tidy(listener, days=None)
    assert len(listener.rows(procedure_steps)) == 1


def test_a_request_whose_report_was_taken_is_forgotten_and_what_was_answered_for_never(listener: Listener) -> None:
    archive(listener)
    listener.image(name="here")
    assert ask(listener, "t", ["here"]) == 0
    listener.step()
    report(listener)
    listener.clock.advance(91 * DAY)
    tidy(listener)
    assert listener.rows(commitment_requests) == []
    assert [row.sop_instance_uid for row in listener.rows(commitments)] == [uid("here")]
    assert ask(listener, "t", ["here"]) == 0, "who asks again is answered again"
    listener.step()
    (row,) = listener.rows(commitment_requests)
    assert row.report["committed"] == [[CR, uid("here")]]


def test_a_report_that_nobody_takes_is_given_up_in_time_and_said_so(
    listener: Listener, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    archive(listener)
    assert ask(listener, "t", ["here"]) == 0
    listener.step()
    report(listener, there=False)
    listener.clock.advance(89 * DAY)
    tidy(listener)
    assert len(listener.rows(commitment_requests)) == 1
    listener.clock.advance(2 * DAY)
    tidy(listener)
    assert listener.rows(commitment_requests) == []
    assert "given up" in caplog.text + capsys.readouterr().err


def test_a_request_that_is_not_decided_stays_however_old_it_is(listener: Listener) -> None:
    archive(listener)
    assert ask(listener, "t", ["here"]) == 0
    for batch in listener.assembler._tail.unread():
        listener.assembler._fold(batch)
    listener.clock.advance(200 * DAY)
    tidy(listener)
    assert [row.state for row in listener.rows(commitment_requests)] == ["asked"]


def test_the_word_of_a_pacs_is_kept_as_long_as_the_object_is_here_or_was_answered_for_on_it(listener: Listener) -> None:
    archive(listener)
    listener.image(name="here")
    hear(listener, "other", ["here", "answered for", "gone"])
    assert ask(listener, "t", ["answered for"]) == 0
    listener.step()
    listener.clock.advance(91 * DAY)
    tidy(listener)
    assert {row.sop_instance_uid for row in listener.rows(committed_elsewhere)} == {uid("here"), uid("answered for")}


def test_more_than_fits_one_transaction_goes_in_several(listener: Listener) -> None:
    hear(listener, "other", [f"gone {number}" for number in range(LIMIT + 5)])
    listener.step()
    listener.clock.advance(91 * DAY)
    with listener.engine.begin() as connection:
        assert forget_notices(connection, listener.clock.now()).rows == LIMIT
    tidy(listener)
    assert listener.rows(committed_elsewhere) == []
