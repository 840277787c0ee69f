"""What the ledger says about a study at each step, from the rows that the services write."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from hilum.adapters.sql import ledger, tables
from hilum.adapters.sql.database import transaction
from hilum.domain.findings import Answer, Dropped
from hilum.domain.inference import Lane
from hilum.domain.results import AiState, DeliveryState, Format, StudyState
from hilum.domain.study import OrderPriority
from hilum.testing.seeding import Said, SeededStudy

START = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
PIXELS = np.zeros((100, 80), np.uint16)


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    with transaction(engine) as opened:
        yield opened


@pytest.fixture
def study(connection: Connection) -> SeededStudy:
    seeded = SeededStudy(connection, "one", start=START, priority=OrderPriority.URGENT)
    seeded.image(PIXELS)
    return seeded


def state_of(connection: Connection) -> tuple[str, str]:
    (row,) = ledger.list_studies(connection)
    detail = ledger.show_study(connection, row.study_uid)
    assert detail is not None
    assert (detail.state, detail.row.reason) == (row.state, row.reason)
    return row.state.value, row.reason


def test_a_study_whose_images_still_arrive_is_receiving(connection: Connection, study: SeededStudy) -> None:
    assert state_of(connection) == ("receiving", "images still arrive")


def test_a_complete_study_says_why_it_is_complete(connection: Connection, study: SeededStudy) -> None:
    study.complete()
    assert state_of(connection) == ("complete", "no image for 5 s")


def test_a_routed_study_waits_in_its_lane(connection: Connection, study: SeededStudy) -> None:
    study.complete()
    study.route(Lane.URGENT, reason="rule 'chest radiograph'")
    assert state_of(connection) == ("waiting", "for the urgent lane (rule 'chest radiograph')")


def test_a_study_that_no_rule_takes_is_not_called_ended_before_its_outcome_is_stored(
    connection: Connection, study: SeededStudy
) -> None:
    study.complete()
    study.route(None, reason="modality CT is not CR/DX")
    assert state_of(connection) == ("complete", "not applicable, being recorded: modality CT is not CR/DX")
    study.end(AiState.NOT_APPLICABLE, "modality CT is not CR/DX")
    assert state_of(connection) == ("not_applicable", "modality CT is not CR/DX")


@pytest.mark.parametrize(
    ("job", "attempts", "error", "state", "reason"),
    [
        ("queued", 0, "", StudyState.WAITING, "for a free worker in the urgent lane"),
        ("queued", 1, "out of memory", StudyState.WAITING, "attempt 1 failed: out of memory"),
        ("claimed", 2, "out of memory", StudyState.RUNNING, "attempt 2"),
        ("done", 1, "", StudyState.RUNNING, "the result is being recorded"),
        ("failed", 3, "unreadable pixels", StudyState.RUNNING, "being recorded"),
        ("superseded", 0, "", StudyState.WAITING, "replaced by a newer revision"),
    ],
)
def test_a_job_shows_where_the_model_stands(
    connection: Connection, study: SeededStudy, job: str, attempts: int, error: str, state: StudyState, reason: str
) -> None:
    study.complete()
    study.route(Lane.URGENT)
    study.job(job, attempts=attempts, error=error)
    found, why = state_of(connection)
    assert found == state.value
    assert reason in why


@pytest.mark.parametrize("state", list(AiState))
def test_an_outcome_is_the_state_whatever_the_job_says(
    connection: Connection, study: SeededStudy, state: AiState
) -> None:
    study.complete()
    study.route(Lane.URGENT)
    study.job("claimed")
    study.end(state, "the reason")
    assert state_of(connection) == (state.value, "the reason")


def test_the_findings_of_a_result_are_in_the_row_with_the_urgent_labels_most_probable_first(
    connection: Connection, study: SeededStudy
) -> None:
    study.complete()
    said = [
        Said("Pneumothorax", (1, 2, 30, 40), 0.7),
        Said("Fracture", (5, 5, 9, 9), 0.95),
        Said("Nodule", (5, 5, 9, 9), 0.8),
    ]
    study.result(said, ungrounded=("Effusion",))
    (row,) = ledger.list_studies(connection)
    assert row.state is AiState.POSITIVE
    assert [(f.label, f.urgent) for f in row.findings] == [
        ("Pneumothorax", True),
        ("Fracture", True),
        ("Nodule", False),
    ]
    assert row.urgent_labels == ("Fracture", "Pneumothorax")
    assert row.ungrounded == ("Effusion",)
    assert row.model is not None
    assert row.model.simulation


def test_a_late_image_reopens_the_study_and_takes_neither_its_findings_nor_its_place(
    connection: Connection, study: SeededStudy
) -> None:
    study.complete(seconds=5)
    study.result([Said("Fracture", (5, 5, 9, 9), 0.95)])
    study.reopen(seconds=600)
    (row,) = ledger.list_studies(connection)
    assert (row.state, row.reason) == (StudyState.RECEIVING, "late images reopened the study")
    assert (row.urgent_labels, row.result_revision) == (("Fracture",), 1)
    assert row.waiting_since == START
    study.complete(2, seconds=610)
    study.end(AiState.FAILED, "unreadable pixels", 2)
    (row,) = ledger.list_studies(connection)
    assert (row.state, row.urgent_labels, row.result_revision) == (AiState.FAILED, ("Fracture",), 1)
    assert (row.waiting_since, row.last_received_at) == (START, START + timedelta(seconds=605))
    assert ledger.worklist_entry(row).waiting_since == START


def test_the_result_of_a_new_revision_replaces_the_one_before(connection: Connection, study: SeededStudy) -> None:
    study.complete(1)
    first = study.result([Said("Fracture", (5, 5, 9, 9), 0.95)], bytes_of={Format.SR: b"first"})
    study.deliver(first, "pacs", Format.SR, DeliveryState.SUPERSEDED)
    study.complete(2, seconds=60)
    second = study.result([], 2, bytes_of={Format.SR: b"second"}, seconds=63)
    study.deliver(second, "pacs", Format.SR, DeliveryState.ACCEPTED, revision=2, tries=[("accepted", "0x0000")])
    (row,) = ledger.list_studies(connection)
    assert (row.state, row.urgent_labels, row.result_revision) == (AiState.NEGATIVE, (), 2)
    assert [(d.destination, d.state) for d in row.deliveries] == [("pacs", DeliveryState.ACCEPTED)]
    detail = ledger.show_study(connection, study.uid)
    assert detail is not None
    assert [(r.revision, r.state) for r in detail.revisions] == [(2, AiState.NEGATIVE), (1, AiState.POSITIVE)]
    assert ledger.encoding(connection, study.uid, Format.SR) == b"second"
    assert ledger.encoding(connection, study.uid, Format.SR, 1) == b"first"
    assert ledger.encoding(connection, study.uid, Format.FHIR) is None


def test_the_detail_has_the_whole_result_as_json_with_the_state_on_top(
    connection: Connection, study: SeededStudy
) -> None:
    study.complete()
    study.route(Lane.URGENT)
    study.job("done")
    key = study.result(
        [Said("Fracture", (5.5, 6, 9, 9.25), 0.95)],
        report="A fracture of the fourth rib.",
        dropped=(Dropped("Nodule", "the box reaches outside the image"),),
        answers=(Answer("Is there a nodule?", "No."),),
    )
    study.deliver(key, "ris", Format.ORU, DeliveryState.QUEUED, reason="refused", tries=[("retry", "no answer")])
    detail = ledger.show_study(connection, study.uid)
    assert detail is not None
    told = json.loads(json.dumps(detail.to_json()))
    assert told["state"] == "positive"
    assert told["findings"][0]["box"] == {"left": 5.5, "top": 6.0, "right": 9.0, "bottom": 9.25}
    assert told["findings"][0]["sop_instance_uid"] == told["images"][0]["sop_instance_uid"]
    assert told["report"] == "A fracture of the fourth rib."
    assert told["dropped"] == [{"text": "Nodule", "reason": "the box reaches outside the image"}]
    assert told["answers"] == [{"question": "Is there a nodule?", "text": "No."}]
    assert told["deliveries"][0]["attempts"][0]["words"] == "no answer"
    assert told["revisions"][0]["job"]["attempts"] == 1
    assert told["revisions"][0]["route"]["lane"] == "urgent"
    assert told["model"]["disclaimer"] == "MedMO-Nano, trained on generated images, not for patients"
    assert told["waiting_since"] == "2026-11-24T08:00:00+00:00"


def test_a_study_that_never_came_has_no_detail(connection: Connection) -> None:
    assert ledger.show_study(connection, "1.2.3") is None
    assert ledger.list_studies(connection) == []


def test_the_patient_is_not_in_the_row_s_own_text(connection: Connection, study: SeededStudy) -> None:
    (row,) = ledger.list_studies(connection)
    assert row.patient.name == "Test^one"
    assert "Test^one" not in repr(row)
    assert row.accession not in repr(row)


def test_quarantine_and_dead_letters_are_listed_newest_first(connection: Connection) -> None:
    for number in (1, 2):
        values = {"sop_instance_uid": "", "study_instance_uid": "", "reason": f"r{number}", "calling_ae": "X"}
        connection.execute(sa.insert(tables.quarantine).values(**values, uri=f"spool:{number}", received_at=START))
    letter = {"consumer_group": "g", "topic": "study.ready", "offset": 7, "key": "k", "payload": "{}", "reason": "why"}
    connection.execute(sa.insert(tables.dead_letters).values(**letter, created_at=START))
    assert [row.reason for row in ledger.list_quarantine(connection)] == ["r2", "r1"]
    assert [row.reason for row in ledger.list_dead_letters(connection)] == ["why"]
    assert (ledger.count_quarantine(connection), ledger.count_dead_letters(connection)) == (2, 1)
