"""The claims of the delivery ledger, the same on SQLite and PostgreSQL, also when many claim at once."""

import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from hilum.adapters.sql import tables
from hilum.adapters.sql.database import in_transaction, reading, transaction
from hilum.domain.results import Format
from hilum.testing import results as samples
from hilum_results.handlers import deliveries
from hilum_results.handlers.deliveries import Parcel
from hilum_results.handlers.verdict import accepted, retry
from hilum_results.testing import ResultsSite, hl7_to

NOW = samples.CREATED
LEASE = timedelta(seconds=6)
RIS = hl7_to(2575)


@pytest.fixture
def site(tmp_path: Path, engine: Engine) -> ResultsSite:
    return ResultsSite(tmp_path, engine=engine)


def at(seconds: float) -> timedelta:
    """After the time at which everything was due."""
    return timedelta(days=3650, seconds=seconds)


DUE = at(0)


def claim(site: ResultsSite, *, after: timedelta = DUE, in_flight: int = 9) -> Parcel | None:
    return in_transaction(
        site.engine,
        lambda connection: deliveries.claim(
            connection, "ris", Format.ORU, simulation=True, now=NOW + after, lease=LEASE, in_flight=in_flight
        ),
    )


def states(site: ResultsSite) -> dict[int, str]:
    """By revision, of the site's own study."""
    own = samples.HEADER.study_instance_uid
    return {r.revision: r.state for r in site.rows(tables.deliveries) if r.study_instance_uid == own}


def test_no_more_are_claimed_at_a_destination_than_its_limit_and_a_lease_that_ends_makes_room(
    site: ResultsSite,
) -> None:
    for number in range(4):
        site.store(RIS, study=f"1.2.{number}")
    assert claim(site, in_flight=2) is not None
    assert claim(site, in_flight=2) is not None
    assert claim(site, in_flight=2) is None
    with reading(site.engine) as connection:
        assert deliveries.waiting(connection, "ris", Format.ORU, now=NOW + at(0), in_flight=2) == 0
        assert deliveries.waiting(connection, "ris", Format.ORU, now=NOW + at(0), in_flight=3) == 1
        assert deliveries.waiting(connection, "ris", Format.ORU, now=NOW + at(6), in_flight=9) == 4
    assert claim(site, in_flight=2, after=at(6)) is not None


def test_a_newer_revision_waits_while_an_older_one_of_its_study_is_being_sent(site: ResultsSite) -> None:
    site.store(RIS)
    first = claim(site)
    assert first is not None
    site.store(RIS, revision=2)
    site.store(RIS, study="1.2.3")
    other = claim(site)
    assert other is not None
    assert other.study_instance_uid == "1.2.3"
    assert claim(site) is None
    with transaction(site.engine) as connection:
        deliveries.settle(connection, first, accepted("ok"), now=NOW + at(1), pause=timedelta(0))
    second = claim(site, after=at(1))
    assert second is not None
    assert (second.study_instance_uid, states(site)[1]) == (first.study_instance_uid, "accepted")


def test_an_older_revision_that_failed_ends_as_superseded_and_the_newer_one_goes(site: ResultsSite) -> None:
    site.store(RIS)
    first = claim(site)
    assert first is not None
    site.store(RIS, revision=2)
    with transaction(site.engine) as connection:
        deliveries.settle(connection, first, retry("down"), now=NOW + at(1), pause=timedelta(0))
    assert states(site) == {1: "superseded", 2: "queued"}
    assert claim(site, after=at(1)) is not None
    assert states(site)[2] == "sending"


def test_an_older_revision_whose_sender_was_killed_ends_as_superseded_before_the_newer_one_goes(
    site: ResultsSite,
) -> None:
    site.store(RIS)
    assert claim(site) is not None
    site.store(RIS, revision=2)
    assert claim(site, after=at(5)) is None  # it may still be arriving
    newer = claim(site, after=at(6))
    assert newer is not None
    assert states(site) == {1: "superseded", 2: "sending"}


def test_a_claim_holds_as_long_as_it_is_renewed_and_who_lost_it_can_not_renew_it(site: ResultsSite) -> None:
    site.store(RIS)
    first = claim(site)
    assert first is not None
    for seconds in (4, 8, 12):
        with transaction(site.engine) as connection:
            assert deliveries.renew(connection, first, now=NOW + at(seconds), lease=LEASE)
        assert claim(site, after=at(seconds + 5)) is None
    assert claim(site, after=at(18)) is not None
    with transaction(site.engine) as connection:
        assert not deliveries.renew(connection, first, now=NOW + at(18), lease=LEASE)


def test_many_couriers_send_each_revision_in_its_order_and_never_two_of_a_study_at_once(site: ResultsSite) -> None:
    studies = [f"1.2.{number}" for number in range(3)]
    sent: list[tuple[str, str]] = []
    at_once: list[int] = []
    under_way: list[str] = []
    twice: list[str] = []
    lock, stop = threading.Lock(), threading.Event()
    started = time.monotonic()

    def now() -> timedelta:
        return at(time.monotonic() - started)

    def courier(number: int) -> None:
        while not stop.is_set():
            parcel = claim(site, after=now(), in_flight=3)
            if parcel is None:
                stop.wait(0.005)
                continue
            with lock:
                if parcel.study_instance_uid in under_way:
                    twice.append(parcel.study_instance_uid)
                under_way.append(parcel.study_instance_uid)
                at_once.append(len(under_way))
                sent.append((parcel.study_instance_uid, parcel.result_key))
            stop.wait(0.005 * number)
            with lock:
                under_way.remove(parcel.study_instance_uid)
            verdict = retry("again") if len(sent) % 3 == 0 else accepted("ok")
            in_transaction(
                site.engine,
                lambda connection, of=parcel, said=verdict: deliveries.settle(  # type: ignore[misc]
                    connection, of, said, now=NOW + now(), pause=timedelta(0)
                ),
            )

    threads = [threading.Thread(target=courier, args=(number,)) for number in range(1, 6)]
    for thread in threads:
        thread.start()
    for revision in range(1, 6):
        for study in studies:
            site.store(RIS, study=study, revision=revision)
    deadline = time.monotonic() + 60
    while {r.state for r in site.rows(tables.deliveries)} - {"accepted", "superseded"} and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join()
    rows = site.rows(tables.deliveries)
    assert {row.state for row in rows} <= {"accepted", "superseded"}
    assert {row.state for row in rows if row.revision == 5} == {"accepted"}
    revision_of = {row.result_key: row.revision for row in rows}
    for study in studies:
        order = [revision_of[key] for of, key in sent if of == study]
        assert order == sorted(order)
    assert max(at_once) <= 3
    assert twice == []


def test_what_is_sent_again_is_the_same(site: ResultsSite) -> None:
    site.store(RIS)
    first, again = claim(site), claim(site, after=at(7))
    assert first is not None
    assert again is not None
    assert replace(again, token=1, attempt=1, started_at=first.started_at) == first
