"""Missing images and earlier studies: asked for when they should be, kept apart, bounded, never holding a study up."""

from datetime import timedelta

import numpy as np
import pytest
import sqlalchemy as sa
from pydicom.uid import ComprehensiveSRStorage

from hilum.adapters.sql.database import transaction
from hilum.adapters.sql.tables import instances, quarantine, retrievals, studies, study_senders
from hilum.domain.errors import Reject, Retry
from hilum.domain.study import holds_images
from hilum.testing.dicom_files import chest_image
from hilum_listener.handlers import mpps
from hilum_listener.handlers.desk import Service, answer
from hilum_listener.settings import FetchSettings
from hilum_listener.testing import QUIET, Listener
from hilum_listener.testing_fetch import SMALL, Fetching, Shelf, asks_for_priors, study_uid, with_priors
from hilum_listener.testing_services import service_request, step_begins, step_ends

GRACE = FetchSettings().grace
SECOND = timedelta(seconds=1)


def tell(listener: Listener, service: Service, dataset: object) -> None:
    assert answer(service, service_request(dataset, uid="1.2.3.4"), listener.desk).status == 0x0000  # type: ignore[arg-type]


def lists(listener: Listener, *names: str) -> None:
    """The study's procedure step has ended and names these images."""
    tell(listener, mpps.create, step_begins())
    tell(listener, mpps.update, step_ends([chest_image(SMALL, study="study", name=name) for name in names]))


def reasons(listener: Listener) -> list[tuple[str, int, str]]:
    """Study, number of images and reason of each study.ready, oldest first."""
    names = {study_uid(name): name for name in ("study", "last-year", "older")}
    return [
        (names[m.study_instance_uid], sum(len(s.instances) for s in m.series), m.complete_reason)
        for m in listener.ready()
    ]


def here(listener: Listener, study: str) -> int:
    return sum(row.study_instance_uid == study_uid(study) for row in listener.rows(instances))


# --- missing images -------------------------------------------------------------------------------------------------


def test_exactly_what_a_list_names_and_is_not_here_is_fetched_and_completes_the_study(listener: Listener) -> None:
    shelf = Shelf(listener)
    shelf.put("study", "1", "2", "3")
    fetching = Fetching(listener, shelf)
    listener.image(name="1")
    lists(listener, "1", "2", "3")
    listener.step(after=QUIET * 2)
    assert reasons(listener) == []
    fetching.run()
    assert len(shelf.statuses) == 2, "the one that is here is not asked for"
    listener.step()
    assert reasons(listener) == [("study", 3, "the procedure step is completed, its 3 images are all here")]
    assert fetching.states() == [("missing", "done", 1)]
    assert fetching.rows()[0].came == 2


def test_what_was_fetched_as_missing_counts_as_if_received(listener: Listener) -> None:
    shelf = Shelf(listener)
    shelf.put("study", "1", "2")
    fetching = Fetching(listener, shelf)
    listener.image(name="1")
    lists(listener, "1", "2")
    listener.step(after=GRACE)
    before = listener.rows(studies)[0].last_received_at
    fetching.run()
    [study] = listener.rows(studies)
    assert study.last_received_at > before
    assert listener.rows(study_senders) == [], "it is complete, and its retrieval's association was noted as ended"


def test_nothing_is_fetched_before_the_grace_time_is_over_and_the_senders_are_gone(listener: Listener) -> None:
    shelf = Shelf(listener)
    shelf.put("study", "1", "2")
    fetching = Fetching(listener, shelf)
    listener.image(name="1", over="open")
    lists(listener, "1", "2")
    listener.step(after=GRACE)
    fetching.run()
    assert shelf.asked == [], "its sender is still there"
    listener.end("open")
    listener.step()
    listener.image(name="again", over="late", study="study")
    listener.end("late")
    listener.step(after=GRACE - SECOND)
    fetching.run()
    assert shelf.asked == []
    listener.clock.advance(SECOND)
    fetching.run()
    assert shelf.asked


def test_a_sender_that_never_goes_is_waited_for_as_long_as_for_its_next_image(listener: Listener) -> None:
    shelf = Shelf(listener)
    shelf.put("study", "1", "2")
    fetching = Fetching(listener, shelf)
    listener.image(name="1", over="open")
    lists(listener, "1", "2")
    listener.step(after=fetching.settings.unreleased_quiet_time)
    fetching.run()
    assert here(listener, "study") == 2


def test_an_archive_that_is_away_is_asked_again_with_growing_pauses_and_then_given_up(listener: Listener) -> None:
    shelf = Shelf(listener)
    fetching = Fetching(listener, shelf, settings=FetchSettings(attempts=3))
    listener.image(name="1")
    lists(listener, "1", "2")
    listener.step(after=GRACE)
    fetching.fetcher.plan()
    due = []
    for _ in range(3):
        shelf.trouble = Retry("archive shelf: no association")
        assert fetching.fetcher.step()
        [row] = fetching.rows()
        due.append(row.due_at - listener.clock.now())
        assert not fetching.fetcher.step(), "not before its time"
        listener.clock.advance(due[-1])
    assert due == [timedelta(seconds=5), timedelta(seconds=10), timedelta(0)]
    assert (row.state, row.attempts, row.reason) == ("failed", 3, "archive shelf: no association")
    fetching.run()
    assert fetching.states() == [("missing", "failed", 3)], "no news, so it isn't asked again"
    listener.step(after=listener.settings.max_age)
    assert reasons(listener)[0][2].startswith("the maximum age"), "the study is never held up"


def test_an_image_or_a_list_that_comes_later_makes_it_ask_again(listener: Listener) -> None:
    shelf = Shelf(listener)
    fetching = Fetching(listener, shelf)
    listener.image(name="1")
    tell(listener, mpps.create, step_begins())
    listener.step(after=GRACE)
    fetching.run()
    assert fetching.states() == [("missing", "done", 1)]
    assert fetching.rows()[0].reason == "none is missing"
    fetching.run()
    assert len(shelf.asked) == 1
    shelf.put("study", "1", "2")
    listener.clock.advance(SECOND)
    tell(listener, mpps.update, step_ends([chest_image(SMALL, name=name) for name in ("1", "2")]))
    listener.step(after=SECOND)
    fetching.run()
    assert here(listener, "study") == 2


def test_an_archive_that_refuses_is_not_asked_again(listener: Listener) -> None:
    shelf = Shelf(listener, trouble=Reject("archive shelf: C-FIND answered C001"))
    fetching = Fetching(listener, shelf)
    listener.image(name="1")
    lists(listener, "1", "2")
    listener.step(after=GRACE)
    fetching.run()
    assert fetching.states() == [("missing", "failed", 1)]
    assert fetching.rows()[0].reason == "archive shelf: C-FIND answered C001"


def test_an_archive_that_sends_fewer_is_asked_for_the_rest(listener: Listener) -> None:
    shelf = Shelf(listener)
    _, second, _ = shelf.put("study", "1", "2", "3")
    shelf.withheld = {str(second.SOPInstanceUID)}
    fetching = Fetching(listener, shelf)
    listener.image(name="1")
    lists(listener, "1", "2", "3")
    listener.step(after=GRACE)
    fetching.run()
    assert fetching.states() == [("missing", "asked", 1)]
    assert fetching.rows()[0].reason == "archive shelf-1: it sent 1 of 2 images"
    shelf.withheld = set()
    listener.clock.advance(timedelta(seconds=5))
    fetching.run()
    assert len(shelf.statuses) == 2, "one each time"
    assert reasons(listener)[0][1] == 3


def test_objects_that_were_not_asked_for_are_refused_and_leave_nothing(listener: Listener) -> None:
    shelf = Shelf(listener)
    shelf.put("study", "1", "2")
    under_its_uid = chest_image(SMALL, study="elsewhere", name="x")
    under_its_uid.SOPInstanceUID = shelf.held[1].SOPInstanceUID
    shelf.withheld = {str(shelf.held[1].SOPInstanceUID)}
    shelf.also = [chest_image(SMALL, study="other", name="1"), under_its_uid]
    fetching = Fetching(listener, shelf)
    listener.image(name="1")
    lists(listener, "1", "2")
    listener.step(after=GRACE)
    fetching.run()
    assert shelf.statuses == [0xA900, 0xA900]
    assert fetching.rows()[0].reason == ("archive shelf-1: it sent 0 of 1 images, and 2 that were not asked for")
    assert [row.study_instance_uid for row in listener.rows(instances)] == [study_uid("study")]
    assert listener.rows(quarantine) == []


def test_an_archive_cannot_flood_hilum(listener: Listener) -> None:
    shelf = Shelf(listener)
    shelf.put("study", "1", "2", "3", "4")
    listener.image(name="1")
    lists(listener, "1", "2", "3", "4")
    listener.step(after=GRACE)
    few = Fetching(listener, shelf, settings=FetchSettings(max_instances=3))
    few.run()
    assert few.rows()[0].reason == "the study has 4 images, more than the 3 of [fetch]"
    assert shelf.statuses == []
    with transaction(listener.engine) as connection:
        connection.execute(sa.delete(retrievals))
    small = Fetching(listener, shelf, settings=FetchSettings(max_bytes=1000))
    small.run()
    assert small.rows()[0].state == "failed"
    assert "more than 0 MB for one study" in small.rows()[0].reason
    assert 0xA700 in shelf.statuses
    assert here(listener, "study") < 4


def test_non_images_are_not_fetched(listener: Listener) -> None:
    shelf = Shelf(listener)
    shelf.put("study", "1")
    shelf.put("study", "report", SOPClassUID=ComprehensiveSRStorage)
    fetching = Fetching(listener, shelf)
    assert not holds_images(ComprehensiveSRStorage)
    listener.image(name="1")
    tell(listener, mpps.create, step_begins())
    listener.step(after=GRACE)
    fetching.run()
    assert shelf.asked == ["instances"]


def test_what_a_killed_process_was_at_is_taken_up_when_its_lease_runs_out_and_given_up_in_the_end(
    listener: Listener,
) -> None:
    shelf = Shelf(listener)
    shelf.put("study", "1", "2")
    fetching = Fetching(listener, shelf, settings=FetchSettings(attempts=2))

    def dies() -> None:
        raise KeyboardInterrupt

    shelf.before_sending = dies
    listener.image(name="1")
    lists(listener, "1", "2")
    listener.step(after=GRACE)
    fetching.fetcher.plan()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fetching.fetcher.step()
        assert not fetching.fetcher.step(), "the lease holds"
        listener.clock.advance(fetching.settings.lease)
    assert fetching.states() == [("missing", "running", 2)]
    fetching.fetcher.step()
    assert fetching.states() == [("missing", "failed", 2)]
    assert "given up after 2 attempts" in fetching.rows()[0].reason


def test_whoever_lost_the_lease_writes_nothing(listener: Listener) -> None:
    shelf = Shelf(listener)
    shelf.put("study", "1", "2")
    fetching = Fetching(listener, shelf)
    other = Shelf(listener, trouble=Retry("archive other: away"))
    second = Fetching(listener, other)

    def falls_asleep() -> None:
        listener.clock.advance(fetching.settings.lease)
        assert second.fetcher.step()

    shelf.before_sending = falls_asleep
    listener.image(name="1")
    lists(listener, "1", "2")
    listener.step(after=GRACE)
    fetching.fetcher.plan()
    fetching.fetcher.step()
    assert shelf.statuses == [0xA700], "nothing is stored under a lost lease"
    [row] = fetching.rows()
    assert (row.state, row.token, row.reason) == ("asked", 2, "archive other: away")


# --- earlier studies ------------------------------------------------------------------------------------------------


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
