"""Who stands on the reading list, and that lists stay quick however many studies there are."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event

from hilum.adapters.sql import ledger
from hilum.adapters.sql.database import database_path, is_postgresql, open_database, reading, transaction
from hilum.adapters.sql.reading_list import ReadingList, reading_list
from hilum.adapters.sql.schema import migrate
from hilum.domain.inference import Lane
from hilum.domain.results import AiState, DeliveryState, Format, StudyState
from hilum.domain.worklist import reading_order
from hilum.runtime.config import Worklist
from hilum.testing.many_studies import fill_many
from hilum.testing.seeding import Said, SeededStudy
from hilum.testing.varied_studies import fill
from hilum_console import pages
from hilum_console.pages import PAGE_ROWS, all_page, list_page
from hilum_console.snapshot import Snapshot, Snapshots

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
KEEP = timedelta(hours=72)
LIMITS = Worklist().to_domain()
PIXELS = np.zeros((10, 10), np.uint16)
MANY = 20_000


def opened(folder: Path) -> Engine:
    engine = open_database(database_path(folder))
    migrate(engine)
    return engine


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = opened(tmp_path)
    with transaction(engine) as connection:
        yield connection
    engine.dispose()


def study(connection: Connection, name: str, *, age: timedelta) -> SeededStudy:
    made = SeededStudy(connection, name, start=NOW - age)
    made.image(PIXELS)
    made.complete()
    return made


def listed(connection: Connection) -> set[str]:
    return {standing.study_uid for standing in reading_list(connection, ended_since=NOW - KEEP)}


def test_a_study_that_the_ai_has_not_ended_with_stays_however_old_it_is(connection: Connection) -> None:
    old = timedelta(days=400)
    receiving = SeededStudy(connection, "receiving", start=NOW - old)
    complete, waiting, lost = (study(connection, name, age=old) for name in ("complete", "waiting", "lost"))
    waiting.route(Lane.ROUTINE)
    lost.route(Lane.ROUTINE)
    lost.job("failed", attempts=3)
    assert listed(connection) == {made.uid for made in (receiving, complete, waiting, lost)}
    assert {standing.state for standing in reading_list(connection, ended_since=NOW - KEEP)} == {None}


def test_a_study_leaves_some_time_after_its_end_and_not_after_its_images(connection: Connection) -> None:
    gone, kept, late = (study(connection, name, age=timedelta(hours=100)) for name in ("gone", "kept", "late"))
    gone.end(AiState.FAILED, "why", seconds=timedelta(hours=27).total_seconds())
    kept.end(AiState.FAILED, "why", seconds=timedelta(hours=29).total_seconds())
    late.end(AiState.NOT_APPLICABLE, "why")
    late.reopen(seconds=timedelta(hours=99).total_seconds())
    assert listed(connection) == {kept.uid, late.uid}
    late.complete(2, seconds=timedelta(hours=99).total_seconds() + 5)
    assert listed(connection) == {kept.uid, late.uid}


def test_a_standing_says_of_a_study_what_its_row_says(connection: Connection, tmp_path: Path) -> None:
    fill(connection, tmp_path, now=NOW)
    again = study(connection, "again", age=timedelta(minutes=9))
    again.result([Said("Fracture", (1, 1, 5, 5), 0.95), Said("Nodule", (1, 1, 5, 5), 0.95)], ungrounded=("Effusion",))
    again.complete(2, seconds=60)
    again.end(AiState.FAILED, "unreadable pixels", 2)
    standings = {standing.study_uid: standing for standing in reading_list(connection, ended_since=NOW - KEEP)}
    rows = ledger.list_studies(connection)
    assert len(rows) > 10
    for row in rows:
        standing = standings[row.study_uid]
        assert standing.entry == ledger.worklist_entry(row)
        assert standing.state == (None if isinstance(row.state, StudyState) else row.state)
        assert standing.findings == len(row.findings) + len(row.ungrounded)


def test_pages_of_all_studies_hold_each_study_once_newest_images_first(connection: Connection) -> None:
    uids = fill_many(connection, 25, newest=NOW, apart=timedelta(minutes=1))
    found = [row for start in range(0, 30, 10) for row in ledger.list_studies(connection, limit=10, offset=start)]
    assert [row.study_uid for row in found] == uids
    assert found == ledger.list_studies(connection)


def test_rows_come_in_the_order_in_which_they_are_asked_for(connection: Connection) -> None:
    uids = fill_many(connection, 3, newest=NOW, apart=timedelta(minutes=1))
    asked = [uids[2], "1.2.3", uids[0]]
    assert [row.study_uid for row in ledger.study_rows(connection, asked)] == [uids[2], uids[0]]
    assert ledger.study_rows(connection, []) == []
    assert ledger.uids_with(connection, uids[1][5:30], limit=3) == [uids[1]]
    assert ledger.uids_with(connection, "%", limit=3) == []


def test_a_parked_delivery_is_counted_also_when_its_study_left_the_list(connection: Connection) -> None:
    old = study(connection, "old", age=timedelta(days=30))
    key = old.result([])
    for destination in ("pacs", "ris"):
        old.deliver(key, destination, Format.SR, DeliveryState.PARKED, reason="refused")
    page = list_page(connection, snapshot(connection), LIMITS, NOW)
    assert (page.rows, page.counts.listed, page.counts.studies, page.counts.parked) == ((), 0, 1, 1)


def test_a_study_that_left_the_list_has_no_place_and_is_still_shown(connection: Connection) -> None:
    old, new = (study(connection, name, age=age) for name, age in (("old", timedelta(days=30)), ("new", timedelta(0))))
    old.end(AiState.FAILED, "why")
    for made, position in ((old, None), (new, 1)):
        told = pages.study_json(connection, snapshot(connection), made.uid, LIMITS, NOW)
        assert told is not None
        assert told["state"] == ("failed" if made is old else "complete")
        assert (told["place"] and told["place"]["position"]) == position


def test_a_study_leaves_the_list_by_the_clock_also_when_nobody_commits(tmp_path: Path) -> None:
    engine = opened(tmp_path)
    with transaction(engine) as connection:
        study(connection, "one", age=timedelta(0)).end(AiState.FAILED, "why")
    snapshots = Snapshots(engine, keep_ended=KEEP)
    with reading(engine) as connection:
        first = snapshots.current(connection, NOW)
        assert len(first.standings) == 1
        assert snapshots.current(connection, NOW + timedelta(seconds=2)) is first
        assert snapshots.current(connection, NOW + KEEP + timedelta(minutes=1)).standings == ()
    snapshots.close()
    engine.dispose()


# --- many -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """Eight weeks of 360 studies a day, and five from long ago that never ended."""
    engine = opened(tmp_path_factory.mktemp("many"))
    with transaction(engine) as connection:
        fill_many(connection, MANY - 5, newest=NOW, apart=timedelta(minutes=4))
        for number in range(5):
            study(connection, f"stuck {number}", age=timedelta(days=100 + number))
    with reading(engine) as connection:
        yield connection
    engine.dispose()


def snapshot(connection: Connection) -> Snapshot:
    return Snapshot(connection, now=NOW, keep_ended=KEEP)


def processor_s(work: Callable[[], object]) -> float:
    """The least of five runs: processor time, since the machine that runs the tests has other work as well."""
    spent = []
    for _ in range(5):
        before = time.process_time()
        work()
        spent.append(time.process_time() - before)
    return min(spent)


@pytest.mark.slow
def test_with_20000_studies_a_page_is_read_within_100_milliseconds_of_processor_time(many: Connection) -> None:
    assert ledger.count_studies(many) == MANY
    assert processor_s(lambda: list_page(many, snapshot(many), LIMITS, NOW)) < 0.1
    assert processor_s(lambda: all_page(many, 80)) < 0.1


@pytest.mark.slow
def test_with_20000_studies_the_pages_are_the_reading_order_of_all_that_are_on_the_list(many: Connection) -> None:
    taken = snapshot(many)
    order = reading_order([standing.entry for standing in taken.standings], LIMITS, now=NOW)
    first = list_page(many, taken, LIMITS, NOW)
    assert (first.counts.studies, first.counts.listed, first.counts.moving) == (MANY, len(order), 5)
    assert 1000 < len(order) < 1200
    assert all(row.state is StudyState.COMPLETE for _, row in first.rows[:5])
    assert first.part.of == -(-len(order) // PAGE_ROWS)
    found = [row for n in range(first.part.of) for row in list_page(many, taken, LIMITS, NOW, n + 1).rows]
    assert [place for place, _ in found] == list(order)
    assert [row.study_uid for _, row in found] == [place.entry.study_instance_uid for place in order]
    assert list_page(many, taken, LIMITS, NOW, 10**6).part.number == first.part.of


def test_a_commit_is_seen_at_once_and_very_many_studies_are_counted_once_a_minute(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots = Snapshots(engine, keep_ended=KEEP)

    def seen(after: timedelta = timedelta(0)) -> tuple[int, int]:
        with reading(engine) as connection:
            taken = snapshots.current(connection, NOW + after)
            return len(taken.standings), taken.studies

    def add(name: str) -> None:
        with transaction(engine) as connection:
            study(connection, name, age=timedelta(0))

    add("one")
    assert seen() == (1, 1)
    add("two")
    assert seen() == (2, 2)
    monkeypatch.setattr("hilum_console.snapshot._MANY", 2)
    add("three")
    assert seen() == (3, 2)
    assert seen(timedelta(seconds=61)) == (3, 3)
    snapshots.close()


def test_no_query_of_the_list_walks_a_table_of_the_ledger(engine: Engine) -> None:
    """What does so takes longer with every study that was ever received."""
    seen: dict[str, Any] = {}

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        seen.setdefault(statement, parameters)

    with transaction(engine) as connection:
        fill_many(connection, 60, newest=NOW, apart=timedelta(hours=2))
        again = study(connection, "again", age=timedelta(0))
        again.end(AiState.FAILED, "why")
        again.reopen(seconds=30)
        again.complete(2, seconds=60)
        if is_postgresql(connection):
            connection.execute(sa.text("ANALYZE"))
    with reading(engine) as connection:
        event.listen(engine, "before_cursor_execute", note)
        taken = Snapshot(connection, now=NOW, keep_ended=KEEP, studies=60)
        list_page(connection, taken, LIMITS, NOW)
        event.remove(engine, "before_cursor_execute", note)
    walking = []
    with transaction(engine) as connection:
        explain, walks = "EXPLAIN QUERY PLAN ", "SCAN"
        if is_postgresql(connection):
            explain, walks = "EXPLAIN ", "Seq Scan"
            connection.execute(sa.text("SET LOCAL enable_seqscan = off"))  # then only what no index serves is walked
        for statement, parameters in seen.items():
            lines = [str(row[-1]) for row in connection.exec_driver_sql(explain + statement, parameters)]
            walking += [line for line in lines if line.lstrip(" ->").startswith(walks)]
    assert len(seen) >= 8
    allowed = ("ix_revisions_open", "ix_deliveries_parked", "quarantine", "dead_letters", "SUBQUERY", "anon_", "top")
    assert [line for line in walking if not any(name in line for name in allowed)] == []


def test_what_is_read_little_by_little_is_what_is_there(engine: Engine) -> None:
    """A study moves on, ends, is received again, gets a result late: after each commit both ways tell the same."""
    reader, at = ReadingList(), NOW

    def check() -> None:
        with reading(engine) as connection:
            found = reader.read(connection, ended_since=at - KEEP, now=at)
            every = reading_list(connection, ended_since=at - KEEP)
        assert sorted(found, key=lambda one: one.study_uid) == sorted(every, key=lambda one: one.study_uid)

    with transaction(engine) as connection:
        fill_many(connection, 30, newest=NOW, apart=timedelta(hours=3))
    check()
    steps: list[Callable[[SeededStudy], object]] = [
        lambda made: made.complete(),
        lambda made: made.route(Lane.ROUTINE),
        lambda made: made.end(AiState.FAILED, "why", seconds=9),
        lambda made: made.reopen(seconds=20),
        lambda made: made.complete(2, seconds=30),
        lambda made: made.end(AiState.NOT_APPLICABLE, "why", 2, seconds=40),
    ]
    ages = [timedelta(0), timedelta(hours=1), timedelta(hours=80)]
    with transaction(engine) as connection:
        made = [SeededStudy(connection, str(age), start=NOW - age) for age in ages]
        for one in made:
            one.image(PIXELS)
    check()
    for number, step in enumerate(steps):
        with transaction(engine) as connection:
            for one in made:
                one._connection = connection
                step(one)
        at = NOW + timedelta(seconds=8 * (number + 1))
        check()
    for after in (timedelta(hours=1), timedelta(hours=75), timedelta(0)):
        at = NOW + after
        check()
