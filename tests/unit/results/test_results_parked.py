"""Deliveries that no destination takes any more are parked; what is put back goes out as it was."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from hilum.adapters.sql import tables
from hilum.adapters.sql.database import transaction
from hilum.domain.results import DeliveryState, Format
from hilum.runtime.config import parse
from hilum.testing import results as samples
from hilum_results.encode import ENCODERS
from hilum_results.handlers import deliveries, intake, parked
from hilum_results.handlers.parked import Served
from hilum_results.handlers.verdict import parked as refused
from hilum_results.settings import Settings

NOW = samples.CREATED
LATER = NOW + timedelta(hours=1)
SETTINGS = Settings.of(
    parse(
        '[[destinations]]\nname = "pacs"\nkind = "dicom"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 104\n'
        'simulation = true\n[[destinations]]\nname = "ris"\nkind = "hl7"\nhost = "127.0.0.1"\nport = 2575\n'
        "simulation = true\n"
    ),
    data=Path("unused"),
)
BOTH = SETTINGS.served


@pytest.fixture
def engine(engine: Engine) -> Engine:
    """A database of each kind with one result."""
    with transaction(engine) as connection:
        samples.index_study(connection, at=NOW)
        take(connection)
    return engine


def take(connection: Connection, *, revision: int = 1, encoders: Any = ENCODERS) -> None:
    one = samples.image(1)
    of = samples.findings([samples.finding("Nodule", 1, on=one)], images=[one], revision=revision)
    prepared = intake.prepare(
        connection, of, settings=SETTINGS, encoders=encoders, now=NOW, on_failure=lambda _format, _error: None
    )
    assert prepared is not None
    intake.store(connection, prepared, settings=SETTINGS, now=NOW)


def rows(engine: Engine) -> dict[str, tuple[str, str]]:
    """State and reason by destination, of the first revision."""
    with transaction(engine) as connection:
        found = connection.execute(sa.select(tables.deliveries).where(tables.deliveries.c.revision == 1))
        return {row.destination: (row.state, row.reason) for row in found}


def claim(engine: Engine, destination: str, served: Served = BOTH) -> deliveries.Parcel | None:
    with transaction(engine) as connection:
        return deliveries.claim(
            connection, destination, served[destination], simulation=True, now=LATER, lease=timedelta(seconds=60)
        )


def reconcile(engine: Engine, served: Served) -> tuple[int, int]:
    with transaction(engine) as connection:
        return parked.park_unserved(connection, served, now=LATER), parked.resume_served(connection, served, now=LATER)


def refuse(engine: Engine, destination: str) -> deliveries.Parcel:
    """The peer refuses the delivery, which parks it."""
    parcel = claim(engine, destination)
    assert parcel is not None
    with transaction(engine) as connection:
        assert deliveries.settle(connection, parcel, refused("AE no such order"), now=LATER, pause=timedelta(0))
    return parcel


def put_back(engine: Engine, *ids: int, served: Served = BOTH) -> list[parked.PutBack]:
    with transaction(engine) as connection:
        if ids:
            return parked.put_back(connection, ids, served, now=LATER)
        return parked.put_all_back(connection, served, now=LATER)


def test_what_waits_for_a_destination_that_was_removed_is_parked_with_the_reason(engine: Engine) -> None:
    assert reconcile(engine, {"pacs": Format.SR}) == (1, 0)
    assert rows(engine) == {"pacs": ("queued", ""), "ris": ("parked", parked.GONE)}


def test_what_was_being_sent_when_its_destination_was_removed_is_parked_as_well(engine: Engine) -> None:
    assert claim(engine, "ris") is not None
    assert reconcile(engine, {"pacs": Format.SR}) == (0, 0)  # a process that runs is sending it
    with transaction(engine) as connection:
        deliveries.release_claims(connection, now=LATER)
    assert reconcile(engine, {"pacs": Format.SR}) == (1, 0)
    assert rows(engine)["ris"] == ("parked", parked.GONE)


def test_a_destination_that_changed_its_kind_never_gets_the_old_format(engine: Engine) -> None:
    changed = {"pacs": Format.SR, "ris": Format.FHIR}
    assert claim(engine, "ris", changed) is None  # also before anything was parked
    with transaction(engine) as connection:
        assert deliveries.next_due(connection, "ris", Format.FHIR) is None  # its courier sleeps
    assert reconcile(engine, changed) == (1, 0)
    assert rows(engine)["ris"] == ("parked", parked.OTHER_KIND)


def test_a_destination_that_comes_back_gets_what_was_parked_for_its_absence_and_nothing_else(engine: Engine) -> None:
    refuse(engine, "pacs")
    reconcile(engine, {})
    assert reconcile(engine, BOTH) == (0, 1)
    assert rows(engine)["pacs"] == ("parked", "AE no such order")
    assert rows(engine)["ris"][0] == "queued"


def test_what_is_put_back_is_the_same_object_with_the_same_bytes_and_counts_its_attempts_on(engine: Engine) -> None:
    first = refuse(engine, "ris")
    (done,) = put_back(engine, first.delivery_id)
    assert done.state is DeliveryState.QUEUED
    assert rows(engine)["ris"][1] == "put back in the queue; it was parked: AE no such order"
    second = claim(engine, "ris")
    assert second is not None
    assert (second.identity, second.content, second.attempt) == (first.identity, first.content, 2)


def test_only_parked_deliveries_are_put_back(engine: Engine) -> None:
    queued = claim(engine, "pacs")
    assert queued is not None
    assert put_back(engine, queued.delivery_id, 4711) == []
    assert rows(engine)["pacs"][0] == "sending"


def test_an_outdated_result_is_superseded_and_not_sent_after_the_newer_one(engine: Engine) -> None:
    old = refuse(engine, "ris")
    with transaction(engine) as connection:
        take(connection, revision=2)
    (done,) = put_back(engine, old.delivery_id)
    assert (done.state, done.why) == (DeliveryState.SUPERSEDED, "revision 2 of the study has a result")
    assert rows(engine)["ris"][0] == "superseded"


def test_what_has_no_destination_stays_parked_and_says_why(engine: Engine) -> None:
    parcel = refuse(engine, "ris")
    (done,) = put_back(engine, parcel.delivery_id, served={"pacs": Format.SR})
    assert (done.state, done.why) == (DeliveryState.PARKED, parked.GONE)
    assert rows(engine)["ris"] == ("parked", "AE no such order")


def test_what_could_not_be_encoded_stays_parked_and_says_why(engine: Engine) -> None:
    def broken(_result: object) -> bytes:
        raise ZeroDivisionError

    with transaction(engine) as connection:
        take(connection, revision=2, encoders={**ENCODERS, Format.ORU: broken})
    (done,) = put_back(engine)
    assert (done.destination, done.state, done.why) == ("ris", DeliveryState.PARKED, parked.NO_BYTES)


def test_a_study_whose_images_disagree_is_put_back_by_its_own_id_only(engine: Engine) -> None:
    parcel = refuse(engine, "ris")
    with transaction(engine) as connection:
        connection.execute(sa.update(tables.studies).values(conflict="two patients"))
    (left,) = put_back(engine)
    assert (left.state, left.why) == (DeliveryState.PARKED, parked.CONFLICT)
    (done,) = put_back(engine, parcel.delivery_id)
    assert done.state is DeliveryState.QUEUED
