"""What is removed, when and how: second files of the same bytes, old journals, what the site lets expire."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hilum.adapters.sql.database import transaction
from hilum.adapters.sql.tables import (
    commitment_requests,
    commitments,
    deliveries,
    instances,
    jobs,
    journal_positions,
    outcomes,
    quarantine,
    removals,
    revisions,
    series,
    studies,
)
from hilum.domain.errors import Busy
from hilum.runtime.config import Retention
from hilum_listener.handlers.journal import JournalWriter
from hilum_listener.handlers.tidy import Tidier
from hilum_listener.testing import QUIET, START, Listener, stored_files
from hilum_listener.testing_fetch import Fetching, Shelf, asks_for_priors, study_uid, with_priors

DAY = timedelta(days=1)


def files(listener: Listener) -> set[str]:
    return {f"spool:{path.parent.name}/{path.name}" for path in stored_files(listener.places.spool)}


def tidy(listener: Listener, *, after: timedelta = timedelta(0), **retention: Any) -> None:
    """Steps a new assembler to its end and tidies, `after` that time, until nothing is left to do."""
    listener.clock.advance(after)
    settings = replace(listener.settings, retention=Retention(**retention))
    assembler = listener.new_assembler()
    assembler.step()
    assembler.step()  # finds that no more comes
    tidier = Tidier(listener.places, settings, listener.engine, listener.clock, assembler._tail)
    for _ in range(4):
        tidier.step()
        listener.clock.advance(timedelta(seconds=31))


def test_the_second_file_of_the_same_bytes_is_removed_after_the_index_has_committed(listener: Listener) -> None:
    listener.image()
    listener.step()
    (kept,) = listener.rows(instances)
    listener.image()
    listener.image()
    assert len(files(listener)) == 3
    listener.step()
    assert len(files(listener)) == 3, "put down, and still there"
    assert {row.uri for row in listener.rows(removals)} == files(listener) - {kept.uri}
    tidy(listener)
    assert files(listener) == {kept.uri}
    assert listener.rows(removals) == []


def test_a_kill_between_the_commit_and_the_removal_leaves_no_file_behind(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener.image()
    listener.image()
    listener.step()

    def dies(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    for call in ("unlink", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, dies)
            with pytest.raises(KeyboardInterrupt):
                tidy(listener)
        assert len(listener.rows(removals)) == 1
    tidy(listener)
    assert files(listener) == {row.uri for row in listener.rows(instances)}
    assert listener.rows(removals) == []


def test_files_go_a_few_at_a_time(listener: Listener) -> None:
    for _ in range(60):
        listener.image()
    listener.step()
    tidier = Tidier(listener.places, listener.settings, listener.engine, listener.clock, listener.new_assembler()._tail)
    tidier.step()
    assert len(files(listener)) == 10
    tidier.step()
    assert len(files(listener)) == 10, "not before some time has passed"
    listener.clock.advance(timedelta(seconds=0.5))
    tidier.step()
    assert len(files(listener)) == 1


def test_while_the_spool_is_away_nothing_is_taken_for_removed(listener: Listener) -> None:
    listener.image()
    listener.image()
    listener.step()
    away = listener.places.data / "away"
    listener.places.spool.rename(away)
    tidier = Tidier(listener.places, listener.settings, listener.engine, listener.clock, listener.new_assembler()._tail)
    with pytest.raises(Busy):
        tidier.step()
    assert len(listener.rows(removals)) == 1
    away.rename(listener.places.spool)
    tidier.step()
    tidy(listener)
    assert len(files(listener)) == 1


def test_other_bytes_that_come_again_are_quarantined_once(listener: Listener) -> None:
    listener.image()
    for _ in range(3):
        listener.image(PatientName="Other^Name")
    listener.step()
    tidy(listener)
    (row,) = listener.rows(quarantine)
    assert files(listener) == {row.uri, listener.rows(instances)[0].uri}


# --- journals ---------------------------------------------------------------------------------------------------------


def journals(listener: Listener) -> list[str]:
    return sorted(path.name for path in listener.places.journal.glob("*.jsonl"))


def aged(listener: Listener, name: str, age: timedelta) -> None:
    at = (listener.clock.now() - age).timestamp()
    os.utime(listener.places.journal / name, (at, at))


def test_a_folded_journal_that_no_one_writes_goes_with_its_position_when_it_is_old(listener: Listener) -> None:
    listener.image()
    listener.journal.close()
    (name,) = journals(listener)
    aged(listener, name, 6.9 * DAY)
    tidy(listener)
    assert journals(listener) == [name]
    aged(listener, name, 7.1 * DAY)
    tidy(listener)
    assert journals(listener) == []
    assert listener.rows(journal_positions) == []
    assert len(listener.rows(instances)) == 1


def test_a_journal_that_may_grow_stays_however_old_it_is(listener: Listener) -> None:
    listener.image()
    (name,) = journals(listener)
    aged(listener, name, 99 * DAY)
    tidy(listener)
    assert journals(listener) == [name]
    listener.image(name="later")
    listener.step()
    assert len(listener.rows(instances)) == 2


def test_a_journal_that_is_not_folded_stays_however_old_it_is(listener: Listener) -> None:
    listener.image()
    listener.journal.close()
    (name,) = journals(listener)
    aged(listener, name, 99 * DAY)
    tail = listener.new_assembler()._tail
    Tidier(listener.places, listener.settings, listener.engine, listener.clock, tail).step()
    assert journals(listener) == [name]


def test_without_a_number_of_days_journals_stay(listener: Listener) -> None:
    listener.image()
    listener.journal.close()
    aged(listener, journals(listener)[0], 99 * DAY)
    tidy(listener, journal_days=None)
    assert len(journals(listener)) == 1


def test_a_kill_between_the_removal_of_a_journal_and_that_of_its_position_is_made_good(listener: Listener) -> None:
    listener.image()
    listener.journal.close()
    old = "20200101T000000000000-1-0000.jsonl"
    with transaction(listener.engine) as connection:
        connection.execute(sa.insert(journal_positions).values(journal=old, position=77))
    tidy(listener)
    assert [row.journal for row in listener.rows(journal_positions)] == journals(listener)


def test_a_torn_last_line_does_not_keep_a_journal_for_ever(listener: Listener) -> None:
    listener.image()
    listener.journal.close()
    (name,) = journals(listener)
    with (listener.places.journal / name).open("ab") as file:
        file.write(b'{"type":"instance","uri":"spool:ab')
    aged(listener, name, 8 * DAY)
    tidy(listener)
    assert journals(listener) == []


# --- retention --------------------------------------------------------------------------------------------------------


def completed(listener: Listener, study: str = "study") -> str:
    """A study with two images that is complete and ended; returns its UID."""
    listener.image(study=study, name=study + "1")
    listener.image(study=study, name=study + "2")
    listener.step(after=QUIET)
    row = max(listener.rows(studies), key=lambda row: row.last_received_at)
    add(
        listener, outcomes, study_instance_uid=row.study_instance_uid, revision=1, state="negative", reason="",
        ended_at=START,
    )  # fmt: skip
    return str(row.study_instance_uid)


def add(listener: Listener, table: sa.Table, **values: Any) -> None:
    """A row with zeros and empty texts where nothing is given."""
    for column in table.columns:
        if column.name not in values and not column.nullable and column.name != "id":
            kind = column.type.python_type if not isinstance(column.type, sa.types.TypeDecorator) else None
            empty = {} if kind is object else kind() if kind else START
            values[column.name] = empty
    with transaction(listener.engine) as connection:
        connection.execute(sa.insert(table).values(**values))


def test_an_old_studys_files_go_and_the_ledger_stays(listener: Listener) -> None:
    completed(listener)
    tidy(listener, after=399 * DAY, study_days=400)
    assert len(files(listener)) == 2
    tidy(listener, after=2 * DAY, study_days=400)
    assert files(listener) == set()
    assert (listener.rows(instances), listener.rows(series), listener.rows(removals)) == ([], [], [])
    assert len(listener.rows(studies)) == len(listener.rows(revisions)) == len(listener.rows(outcomes)) == 1


def test_by_default_nothing_of_a_study_or_of_the_quarantine_ever_goes(listener: Listener) -> None:
    completed(listener)
    listener.image(study="study", name="study1", PatientName="Other^Name")
    tidy(listener, after=9999 * DAY)
    assert len(files(listener)) == 3


def job(listener: Listener, study: str) -> None:
    add(listener, jobs, request_id="r", study_instance_uid=study, revision=1, state="claimed", payload={})


def delivery(state: str) -> Callable[[Listener, str], None]:
    def put(listener: Listener, study: str) -> None:
        add(listener, deliveries, study_instance_uid=study, revision=1, state=state)

    return put


def commitment(listener: Listener, study: str) -> None:
    uid = next(row.sop_instance_uid for row in listener.rows(instances) if row.study_instance_uid == study)
    add(listener, commitments, sop_instance_uid=uid)


def no_end(listener: Listener, _study: str) -> None:
    with transaction(listener.engine) as connection:
        connection.execute(sa.delete(outcomes))


def archive(listener: Listener, _study: str) -> None:
    listener.settings = replace(listener.settings, archive=True, max_age=99_999 * DAY)


@pytest.mark.parametrize(
    "keep",
    [job, delivery("queued"), delivery("sending"), delivery("parked"), commitment, no_end, archive],
)
def test_what_is_under_way_or_answered_for_stays_however_old_it_is(
    listener: Listener, keep: Callable[[Listener, str], None]
) -> None:
    keep(listener, completed(listener))
    before = files(listener)
    tidy(listener, after=9999 * DAY, study_days=1)
    assert files(listener) == before


def test_while_a_commitment_is_asked_for_and_not_decided_no_study_goes(listener: Listener) -> None:
    completed(listener)
    add(listener, commitment_requests, notice="n", state="asked", instances=[], report={})
    listener.clock.advance(500 * DAY)
    settings = replace(listener.settings, retention=Retention(study_days=400))
    tidier = Tidier(listener.places, settings, listener.engine, listener.clock, listener.new_assembler()._tail)
    tidier.step()
    assert listener.rows(removals) == []
    with transaction(listener.engine) as connection:
        connection.execute(sa.delete(commitment_requests))
    listener.clock.advance(timedelta(seconds=31))
    tidier.step()
    assert len(listener.rows(removals)) == 2


def test_what_one_study_is_kept_for_does_not_keep_another(listener: Listener) -> None:
    commitment(listener, completed(listener, "kept"))
    completed(listener, "other")
    delivery("accepted")(listener, listener.rows(studies)[1].study_instance_uid)
    tidy(listener, after=500 * DAY, study_days=400)
    assert len(files(listener)) == 2
    assert files(listener) == {row.uri for row in listener.rows(instances)}


def test_an_image_that_comes_back_after_it_expired_is_a_new_revision(listener: Listener) -> None:
    completed(listener)
    tidy(listener, after=500 * DAY, study_days=400)
    listener.assembler = listener.new_assembler()
    listener.image(study="study", name="study1")
    listener.step(after=QUIET)
    assert [len(m.series[0].instances) for m in listener.ready()] == [2, 1]
    assert len(files(listener)) == 1


def test_quarantined_files_expire_when_the_site_says_so_but_not_those_that_were_answered_for(
    listener: Listener,
) -> None:
    for uid in ("1.2.3", "1.2.4"):
        listener.receive(b"no data set whatever" * 10, sop_uid=uid, sop_class="1.2")
    listener.step()
    add(listener, commitments, sop_instance_uid="1.2.4")
    tidy(listener, after=89 * DAY, quarantine_days=90)
    assert len(files(listener)) == 2
    tidy(listener, after=2 * DAY, quarantine_days=90)
    assert [row.sop_instance_uid for row in listener.rows(quarantine)] == ["1.2.4"]
    assert files(listener) == {listener.rows(quarantine)[0].uri}


def test_a_new_writer_after_the_old_one_is_followed_at_once(listener: Listener, tmp_path: Path) -> None:
    listener.image(name="one")
    listener.step()
    listener.journal.close()
    listener.step()
    listener.journal = JournalWriter(listener.places.journal, started_at=listener.clock.now() + DAY)
    listener.image(name="two")
    listener.step()
    assert len(listener.rows(instances)) == 2


def test_an_earlier_study_that_was_fetched_goes_when_it_is_old_enough_unless_a_modality_sent_it(
    listener: Listener,
) -> None:
    settings = with_priors(listener, asks_for_priors())
    shelf = Shelf(listener)
    shelf.put("last-year", "1", StudyDate="20261003")
    [sent] = shelf.put("older", "1", StudyDate="20260903")
    fetching = Fetching(listener, shelf, settings=settings)
    listener.image(StudyDate="20261124")
    listener.step()
    fetching.run()
    listener.receive(sent)
    listener.step(after=QUIET)
    assert len(listener.rows(instances)) == 3
    tidy(listener, after=DAY * 9, study_days=10)
    assert len(listener.rows(instances)) == 3
    tidy(listener, after=DAY * 2, study_days=10)
    left = {row.study_instance_uid for row in listener.rows(instances)}
    assert left == {study_uid("study"), study_uid("older")}, "those wait for their ends, as every study"
    assert {row.reason for row in listener.rows(removals)} <= {"the earlier study was fetched long enough ago"}
