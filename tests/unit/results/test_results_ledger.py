"""Claims, fencing, retries, and encoders that fail: the rules of the delivery ledger on each kind of database."""

import random
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine

from hilum.adapters.sql import tables
from hilum.adapters.sql.database import transaction
from hilum.domain.errors import Reject
from hilum.domain.results import AiState, Ended, Format, Result
from hilum.runtime.config import Site, parse
from hilum.testing import results as samples
from hilum_results.encode import ENCODERS
from hilum_results.handlers import deliveries, intake
from hilum_results.handlers.verdict import (
    Outcome,
    accepted,
    of_acknowledgement,
    of_http_status,
    of_store_status,
    parked,
    pause,
    retry,
)
from hilum_results.settings import Settings
from hilum_results.transport.courier import sleep_s

NOW = samples.CREATED
LEASE = timedelta(seconds=60)
CONFIG = """
[[destinations]]
name = "pacs"
kind = "dicom"
ae_title = "PACS"
host = "127.0.0.1"
port = 104
simulation = true
[[destinations]]
name = "ris"
kind = "hl7"
host = "127.0.0.1"
port = 2575
simulation = true
"""


@pytest.fixture
def engine(engine: Engine) -> Engine:
    """A database of each kind that knows the study."""
    with transaction(engine) as connection:
        samples.index_study(connection, at=NOW)
    return engine


def settings(config: str = CONFIG) -> Settings:
    return Settings.of(parse(config) if config else Site(), data=Path("unused"))


def take(connection: Connection, *, revision: int = 1, encoders: Any = ENCODERS, **changes: Any) -> AiState | None:
    one = samples.image(1)
    of = samples.findings([samples.finding("Nodule", 1, on=one)], images=[one], revision=revision)
    prepared = intake.prepare(
        connection,
        replace(of, **changes),
        settings=settings(),
        encoders=encoders,
        now=NOW,
        on_failure=lambda _format, _error: None,
    )
    return None if prepared is None else intake.store(connection, prepared, settings=settings(), now=NOW)


def rows(engine: Engine, table: sa.Table = tables.deliveries) -> list[Any]:
    with transaction(engine) as connection:
        return list(connection.execute(sa.select(table)).all())


def claim(engine: Engine, *, seconds: float = 0, destination: str = "pacs") -> deliveries.Parcel | None:
    with transaction(engine) as connection:
        now = NOW + timedelta(seconds=seconds)
        format_ = settings().served[destination]
        return deliveries.claim(connection, destination, format_, simulation=True, now=now, lease=LEASE)


def settle(engine: Engine, parcel: deliveries.Parcel, verdict: Any, *, seconds: float, wait_s: float = 1) -> bool:
    with transaction(engine) as connection:
        now = NOW + timedelta(seconds=seconds)
        return deliveries.settle(connection, parcel, verdict, now=now, pause=timedelta(seconds=wait_s))


def test_a_claimed_delivery_is_nobody_elses_until_its_lease_ends(engine: Engine) -> None:
    with transaction(engine) as connection:
        take(connection)
    first = claim(engine)
    assert first is not None
    assert claim(engine, seconds=59) is None
    again = claim(engine, seconds=60)
    assert again is not None
    assert (again.content, again.identity) == (first.content, first.identity)
    assert (again.token, again.attempt) == (first.token + 1, 2)


def test_who_lost_the_claim_can_not_settle_it(engine: Engine) -> None:
    with transaction(engine) as connection:
        take(connection)
    first, second = claim(engine), claim(engine, seconds=61)
    assert first is not None
    assert second is not None
    assert not settle(engine, first, parked("late"), seconds=62)
    assert settle(engine, second, accepted("ok"), seconds=63)
    assert not settle(engine, second, retry("twice"), seconds=64)
    pacs = next(r for r in rows(engine) if r.destination == "pacs")
    assert (pacs.state, pacs.reason, pacs.attempts) == ("accepted", "ok", 2)
    assert [a.attempt for a in rows(engine, tables.delivery_attempts)] == [2]


def test_a_retry_is_due_after_its_pause_and_one_destination_never_takes_anothers(engine: Engine) -> None:
    with transaction(engine) as connection:
        take(connection)
    parcel = claim(engine)
    assert parcel is not None
    assert parcel.format is Format.SR
    settle(engine, parcel, retry("down"), seconds=1, wait_s=10)
    assert claim(engine, seconds=10) is None
    assert claim(engine, seconds=11) is not None
    other = claim(engine, destination="ris")
    assert other is not None
    assert other.format is Format.ORU


def test_a_retry_of_an_older_revision_ends_when_a_newer_result_came_meanwhile(engine: Engine) -> None:
    with transaction(engine) as connection:
        take(connection)
    parcel = claim(engine)
    assert parcel is not None
    with transaction(engine) as connection:
        take(connection, revision=2)
    settle(engine, parcel, retry("down"), seconds=1)
    states = {(r.revision, r.destination): r.state for r in rows(engine)}
    assert states == {(1, "pacs"): "superseded", (1, "ris"): "superseded", (2, "pacs"): "queued", (2, "ris"): "queued"}


def test_released_claims_are_due_at_once(engine: Engine) -> None:
    with transaction(engine) as connection:
        take(connection)
    assert claim(engine) is not None
    with transaction(engine) as connection:
        assert deliveries.release_claims(connection, now=NOW) == 1
    assert claim(engine) is not None


def broken(result: Result) -> bytes:
    raise ZeroDivisionError(result.header.patient.name)


def test_when_no_format_can_be_encoded_the_study_fails_visibly_and_names_nobody(engine: Engine) -> None:
    with transaction(engine) as connection:
        assert take(connection, encoders=dict.fromkeys(Format, broken)) is AiState.FAILED
    outcome = rows(engine, tables.outcomes)[0]
    assert outcome.state == "failed"
    assert "could not be encoded as SR (ZeroDivisionError)" in outcome.reason
    assert "Doe" not in outcome.reason
    assert {r.state for r in rows(engine)} == {"parked"}


def test_when_one_format_fails_the_others_are_still_delivered_and_the_reason_says_so(engine: Engine) -> None:
    with transaction(engine) as connection:
        assert take(connection, encoders={**ENCODERS, Format.ORU: broken}) is AiState.POSITIVE
    assert {r.destination: r.state for r in rows(engine)} == {"pacs": "queued", "ris": "parked"}
    assert "could not be encoded as ORU" in rows(engine, tables.outcomes)[0].reason


def test_a_result_takes_the_place_of_failed_and_of_nothing_else(engine: Engine) -> None:
    study = samples.HEADER.study_instance_uid
    for revision, state, left in ((1, AiState.FAILED, "positive"), (2, AiState.TOO_LATE, "too_late")):
        with transaction(engine) as connection:
            assert intake.end(connection, Ended(study, revision, state, "reason", NOW))
            take(connection, revision=revision)
            assert not intake.end(connection, Ended(study, revision, AiState.FAILED, "again", NOW))
        assert {r.revision: r.state for r in rows(engine, tables.outcomes)}[revision] == left


def test_a_result_of_a_study_that_nobody_knows_is_refused(engine: Engine) -> None:
    with transaction(engine) as connection, pytest.raises(Reject, match="index does not know"):
        take(connection, study_instance_uid="1.2.3")


def test_a_simulators_result_is_withheld_where_the_destination_is_no_simulation(engine: Engine) -> None:
    with transaction(engine) as connection:
        take(connection)
        assert deliveries.claim(connection, "pacs", Format.SR, simulation=False, now=NOW, lease=LEASE) is None
    assert {r.destination: r.state for r in rows(engine)} == {"pacs": "withheld", "ris": "queued"}


@given(st.integers(1, 10_000), st.integers(0, 2**32))
def test_the_pause_grows_to_its_ceiling_and_never_beyond(attempt: int, seed: int) -> None:
    first, longest = timedelta(seconds=1), timedelta(seconds=300)
    found = pause(attempt, first=first, longest=longest, chance=random.Random(seed))
    assert timedelta(0) <= found <= min(longest, first * 2 ** min(attempt - 1, 20))


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (0x0000, Outcome.ACCEPTED),
        (0xB000, Outcome.ACCEPTED),
        (0xB007, Outcome.ACCEPTED),
        (0xA700, Outcome.RETRY),
        (0xA702, Outcome.RETRY),
        (0x0110, Outcome.RETRY),
        (0xA900, Outcome.PARKED),
        (0xC000, Outcome.PARKED),
        (0xC123, Outcome.PARKED),
        (0x0122, Outcome.PARKED),
        (0x0124, Outcome.PARKED),
    ],
)
def test_each_store_status_has_one_meaning(status: int, outcome: Outcome) -> None:
    assert of_store_status(status).outcome is outcome


def test_http_statuses_and_acknowledgements_have_one_meaning_each() -> None:
    retried = {s for s in range(200, 600) if of_http_status(s, "").outcome is Outcome.RETRY}
    assert retried == {408, 429, *range(500, 600)}
    assert {s for s in range(200, 600) if of_http_status(s, "").outcome is Outcome.ACCEPTED} == set(range(200, 300))
    codes = {code: of_acknowledgement(code, "").outcome for code in ("AA", "CA", "AE", "CE", "AR", "CR", "")}
    assert [codes[c] for c in ("AA", "CA")] == [Outcome.ACCEPTED] * 2
    assert [codes[c] for c in ("AE", "CE")] == [Outcome.PARKED] * 2
    assert [codes[c] for c in ("AR", "CR", "")] == [Outcome.RETRY] * 3


def test_a_peers_words_are_one_bounded_line() -> None:
    assert parked("a\r\nb\x00\x1b[31m" + "x" * 1000).words.startswith("a b [31m")
    assert len(parked("x" * 1000).words) == 400


def test_a_courier_sleeps_to_the_next_due_time_and_not_for_ever() -> None:
    assert sleep_s(NOW + timedelta(seconds=2), NOW) == 2
    assert sleep_s(NOW + timedelta(hours=2), NOW) == sleep_s(None, NOW) == 5
    assert sleep_s(NOW - timedelta(seconds=2), NOW) > 0


def test_a_result_whose_images_name_different_patients_is_parked_and_never_sent(engine: Engine) -> None:
    with transaction(engine) as connection:
        connection.execute(
            sa.update(tables.studies).values(conflict="objects of this study name different patient ids")
        )
        take(connection)
    assert {r.state for r in rows(engine)} == {"parked"}
    assert rows(engine)[0].reason == (
        "not sent, a person must decide: objects of this study name different patient ids"
    )
    assert claim(engine, seconds=3600) is None
