"""Earlier studies that a rule asks for: found, waited for within bounds, and never studies of their own."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from hilum.adapters.sql.tables import quarantine, studies, study_senders
from hilum.domain.errors import Reject, Retry
from hilum.testing.dicom_files import chest_image
from hilum_listener.testing import QUIET, Listener
from hilum_listener.testing_fetch import Fetching, Shelf, asks_for_priors, here, reasons, study_uid, with_priors

SECOND = timedelta(seconds=1)


def test_a_rule_that_asks_for_priors_gets_the_newest_and_the_study_goes_on_with_them(listener: Listener) -> None:
    settings = with_priors(listener, asks_for_priors(1))
    shelf = Shelf(listener)
    shelf.put("last-year", "1", "2", StudyDate="20261003")
    shelf.put("older", "1", StudyDate="20260303")
    fetching = Fetching(listener, shelf, settings=settings)
    listener.image(StudyDate="20261124")
    listener.step()
    fetching.run()
    assert fetching.states() == [("prior", "done", 1), ("search", "done", 1)]
    listener.step(after=QUIET)
    assert reasons(listener) == [("study", 1, "no image for 5 s; 1 of 1 earlier study is here")]
    [ready] = listener.ready()
    [prior] = ready.priors
    assert (prior.study_instance_uid, prior.study_date) == (study_uid("last-year"), "20261003")
    assert [len(series.instances) for series in prior.series] == [2]


def test_a_study_waits_for_priors_for_a_bounded_time_and_says_so(listener: Listener) -> None:
    with_priors(listener, asks_for_priors(wait_s=20))
    listener.image()
    listener.step(after=QUIET)
    assert reasons(listener) == []
    listener.step(after=timedelta(seconds=14))
    assert reasons(listener) == []
    listener.step(after=SECOND)
    assert reasons(listener)[0][2] == (
        "no image for 5 s; not waited for earlier studies any longer than 20 s: "
        "no archive has named any earlier study yet"
    )


def test_a_study_that_no_rule_with_priors_takes_waits_for_none(listener: Listener) -> None:
    settings = with_priors(listener, asks_for_priors())
    shelf = Shelf(listener)
    fetching = Fetching(listener, shelf, settings=settings)
    listener.image(BodyPartExamined="FOOT")
    listener.step()
    fetching.run()
    listener.step(after=QUIET)
    assert reasons(listener) == [("study", 1, "no image for 5 s")]
    assert fetching.states() == []


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (None, "there is no earlier study"),
        (Reject("archive shelf: C-FIND answered A900"), "can't be asked for (archive shelf: C-FIND answered A900)"),
    ],
)
def test_no_prior_and_no_answer_are_both_said(listener: Listener, trouble: Reject | None, words: str) -> None:
    settings = with_priors(listener, asks_for_priors())
    fetching = Fetching(listener, Shelf(listener, trouble=trouble), settings=settings)
    listener.image()
    listener.step()
    fetching.run()
    listener.step(after=QUIET)
    assert words in reasons(listener)[0][2]


def test_a_prior_never_opens_nor_counts_as_a_study_and_a_modality_that_sends_it_makes_it_one(
    listener: Listener,
) -> None:
    settings = with_priors(listener, asks_for_priors())
    shelf = Shelf(listener)
    first, _ = shelf.put("last-year", "1", "2", StudyDate="20261003")
    fetching = Fetching(listener, shelf, settings=settings)
    listener.image(StudyDate="20261124")
    listener.step()
    fetching.run()
    listener.step(after=QUIET * 10)
    assert here(listener, "last-year") == 2
    assert [row.study_instance_uid for row in listener.rows(studies)] == [study_uid("study")]
    assert [name for name, _, _ in reasons(listener)] == ["study"]
    listener.receive(first)
    listener.step()
    fetching.run()
    listener.step(after=QUIET * 10)
    assert reasons(listener)[1][:2] == ("last-year", 2)
    assert {row.modalities for row in listener.rows(studies)} == {"CR"}


def test_a_prior_that_the_modality_sends_with_other_bytes_is_a_study_too(listener: Listener) -> None:
    settings = with_priors(listener, asks_for_priors())
    shelf = Shelf(listener)
    shelf.put("last-year", "1", StudyDate="20261003")
    fetching = Fetching(listener, shelf, settings=settings)
    listener.image(StudyDate="20261124")
    listener.step()
    fetching.run()
    listener.receive(chest_image(np.zeros((8, 8), np.uint16), study="last-year", name="1", StudyDate="20261003"))
    listener.step(after=QUIET)
    assert study_uid("last-year") in {row.study_instance_uid for row in listener.rows(studies)}
    assert len(listener.rows(quarantine)) == 1


def test_an_image_that_nobody_asked_for_opens_the_study_whose_others_were(listener: Listener) -> None:
    settings = with_priors(listener, asks_for_priors())
    shelf = Shelf(listener)
    shelf.put("last-year", "1", StudyDate="20261003")
    fetching = Fetching(listener, shelf, settings=settings)
    listener.image(StudyDate="20261124")
    listener.step()
    fetching.run()
    listener.image(study="last-year", name="report", Rows=None, Columns=None, PixelData=None)
    listener.step()
    assert len(listener.rows(studies)) == 1, "what is no image opens nothing where images are"
    listener.image(study="last-year", name="late", calling="PACS")
    listener.step()
    assert len(listener.rows(studies)) == 2


def test_with_c_move_what_the_archive_sends_while_it_was_asked_is_the_prior(listener: Listener) -> None:
    settings = with_priors(listener, asks_for_priors())
    shelf = Shelf(listener, moves_as="PACS")
    shelf.put("last-year", "1", "2", StudyDate="20261003")
    fetching = Fetching(listener, shelf, settings=settings)
    listener.image(StudyDate="20261124")
    listener.step()
    fetching.run()
    listener.step(after=QUIET)
    assert fetching.states() == [("prior", "done", 1), ("search", "done", 1)]
    assert len(listener.rows(studies)) == 1
    assert len(listener.ready()[0].priors) == 1
    listener.receive(shelf.held[0], calling="PACS")
    listener.step()
    assert len(listener.rows(studies)) == 2, "sent by its own will, after it was asked"


def test_with_c_move_a_second_copy_was_forwarded_and_makes_it_a_study(listener: Listener) -> None:
    settings = with_priors(listener, asks_for_priors())
    shelf = Shelf(listener, moves_as="PACS")
    [image] = shelf.put("last-year", "1", StudyDate="20261003")
    shelf.also = [image]
    fetching = Fetching(listener, shelf, settings=settings)
    listener.image(StudyDate="20261124")
    listener.step()
    fetching.run()
    assert len(listener.rows(studies)) == 2, "an exam that the archive forwards must not be lost"


def test_a_prior_of_a_study_that_is_being_received_reopens_nothing(listener: Listener) -> None:
    settings = with_priors(listener, asks_for_priors())
    shelf = Shelf(listener)
    shelf.put("last-year", "1", "2", StudyDate="20261003")
    fetching = Fetching(listener, shelf, settings=settings)
    listener.image(study="last-year", name="1", StudyDate="20261003")
    listener.step()
    fetching.run()
    listener.step(after=QUIET)
    ready = len(listener.ready())
    listener.image(StudyDate="20261124")
    listener.step()
    fetching.run()
    listener.step(after=QUIET)
    assert here(listener, "last-year") == 2
    assert len(listener.ready()) == ready + 1
    assert not any(row.receiving for row in listener.rows(studies))


def test_another_patients_study_is_no_prior_whatever_the_archive_says(listener: Listener) -> None:
    settings = with_priors(listener, asks_for_priors())
    shelf = Shelf(listener)
    shelf.put("last-year", "1", StudyDate="20261003", PatientID="SOMEONE-ELSE")
    fetching = Fetching(listener, shelf, settings=settings)
    listener.image(StudyDate="20261124")
    listener.step()
    fetching.run()
    listener.step(after=QUIET)
    assert "another patient's" in reasons(listener)[0][2]
    assert "SOMEONE" not in reasons(listener)[0][2]
    assert listener.ready()[0].priors == ()


def test_images_that_disagree_on_the_patient_ask_for_no_prior(listener: Listener) -> None:
    settings = with_priors(listener, asks_for_priors())
    shelf = Shelf(listener)
    fetching = Fetching(listener, shelf, settings=settings)
    listener.image(name="1")
    listener.image(name="2", PatientID="OTHER")
    listener.step()
    fetching.run()
    assert shelf.asked == []
    assert fetching.rows()[0].reason == "the images of the study disagree on whose they are"


def test_a_prior_that_is_here_already_is_not_fetched_again(listener: Listener) -> None:
    settings = with_priors(listener, asks_for_priors(3))
    shelf = Shelf(listener)
    shelf.put("last-year", "1", StudyDate="20261003")
    fetching = Fetching(listener, shelf, settings=settings)
    for study in ("study", "older"):
        listener.image(study=study, StudyDate="20261124")
        listener.step()
        fetching.run()
    listener.step(after=QUIET)
    assert shelf.statuses == [0]
    assert [len(message.priors) for message in listener.ready()] == [1, 1]


def test_the_last_search_for_earlier_studies_makes_do_with_the_archives_that_answer(listener: Listener) -> None:
    settings = replace(with_priors(listener, asks_for_priors()), attempts=2)
    away, other = Shelf(listener), Shelf(listener)
    other.put("last-year", "1", StudyDate="20261003")
    fetching = Fetching(listener, away, other, settings=settings)
    listener.image(StudyDate="20261124")
    listener.step()
    fetching.fetcher.plan()
    for _ in range(2):
        away.trouble = Retry("archive away: no association")
        fetching.fetcher.step()
        listener.clock.advance(settings.first_retry)
    fetching.run()
    assert fetching.states()[-2:] == [("prior", "done", 1), ("search", "done", 2)]
    assert "archive away: no association" in fetching.rows()[-1].reason


def test_a_prior_of_a_study_that_still_comes_in_is_no_sender_of_it(listener: Listener) -> None:
    settings = with_priors(listener, asks_for_priors())
    shelf = Shelf(listener)
    shelf.put("last-year", "1", "2", StudyDate="20261003")
    fetching = Fetching(listener, shelf, settings=settings)
    listener.image(study="last-year", name="1", StudyDate="20261003", over="open")
    listener.image(StudyDate="20261124", over="other")
    listener.step()
    received_at = {row.study_instance_uid: row.last_received_at for row in listener.rows(studies)}
    fetching.run()
    assert here(listener, "last-year") == 2
    assert {row.association for row in listener.rows(study_senders)} == {"open", "other"}
    assert {row.study_instance_uid: row.last_received_at for row in listener.rows(studies)} == received_at


def test_a_prior_that_turns_out_larger_than_may_be_is_not_fetched(listener: Listener) -> None:
    settings = replace(with_priors(listener, asks_for_priors()), max_instances=2)
    shelf = Shelf(listener, tells_of=1)
    shelf.put("last-year", "1", "2", "3", StudyDate="20261003")
    fetching = Fetching(listener, shelf, settings=settings)
    listener.image(StudyDate="20261124")
    listener.step()
    fetching.run()
    assert fetching.states() == [("prior", "failed", 1), ("search", "done", 1)]
    assert fetching.rows()[0].reason == "the study has 3 images, more than the 2 of [fetch]"
    assert shelf.statuses == []


def test_priors_are_not_waited_for_past_the_studys_maximum_age(listener: Listener) -> None:
    with_priors(listener, asks_for_priors(wait_s=3600))
    listener.settings = replace(listener.settings, max_age=QUIET * 4)
    listener.assembler = listener.new_assembler()
    listener.image()
    listener.step(after=QUIET * 4 - SECOND)
    assert reasons(listener) == []
    listener.step(after=SECOND)
    assert len(reasons(listener)) == 1
