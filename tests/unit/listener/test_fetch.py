"""What is missing of a study is fetched when it should be, within bounds, and never holds the study up."""

from datetime import timedelta

import pytest
import sqlalchemy as sa
from pydicom.uid import ComprehensiveSRStorage

from hilum.adapters.sql.database import transaction
from hilum.adapters.sql.tables import instances, quarantine, retrievals, studies, study_senders
from hilum.domain.errors import Reject, Retry
from hilum.domain.study import holds_images
from hilum.testing.dicom_files import chest_image
from hilum_listener.handlers import mpps, retrieval
from hilum_listener.handlers.desk import Service, answer
from hilum_listener.handlers.retrieval import Kind, State
from hilum_listener.settings import FetchSettings
from hilum_listener.testing import QUIET, Listener
from hilum_listener.testing_fetch import SMALL, Fetching, Shelf, here, reasons, study_uid
from hilum_listener.testing_services import service_request, step_begins, step_ends

GRACE = FetchSettings().grace
SECOND = timedelta(seconds=1)


def tell(listener: Listener, service: Service, dataset: object) -> None:
    assert answer(service, service_request(dataset, uid="1.2.3.4"), listener.desk).status == 0x0000  # type: ignore[arg-type]


def lists(listener: Listener, *names: str) -> None:
    """The study's procedure step has ended and names these images."""
    tell(listener, mpps.create, step_begins())
    tell(listener, mpps.update, step_ends([chest_image(SMALL, study="study", name=name) for name in names]))


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
    shelf.also = [chest_image(SMALL, study=study, name="not-asked") for study in ("other", "study")] + [under_its_uid]
    fetching = Fetching(listener, shelf)
    listener.image(name="1")
    lists(listener, "1", "2")
    listener.step(after=GRACE)
    fetching.run()
    assert shelf.statuses == [0xA900] * 3
    assert fetching.rows()[0].reason == ("archive shelf-1: it sent 0 of 1 images, and 3 that were not asked for")
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


def test_of_two_archives_each_is_asked_for_what_only_it_has(listener: Listener) -> None:
    one, other = Shelf(listener), Shelf(listener)
    one.put("study", "1", "2")
    other.put("study", "2", "3")
    fetching = Fetching(listener, one, other)
    listener.image(name="1")
    lists(listener, "1", "2", "3")
    listener.step(after=GRACE)
    fetching.run()
    assert (len(one.statuses), len(other.statuses)) == (1, 1)
    assert reasons(listener)[0][1] == 3


def test_an_archive_that_is_away_is_made_up_for_by_another_one(listener: Listener) -> None:
    away, other = Shelf(listener, trouble=Retry("archive away: no association")), Shelf(listener)
    other.put("study", "1", "2")
    fetching = Fetching(listener, away, other)
    listener.image(name="1")
    lists(listener, "1", "2")
    listener.step(after=GRACE)
    fetching.run()
    assert fetching.states() == [("missing", "done", 1)]


def test_two_that_believe_they_hold_the_same_retrieval_are_told_apart_by_their_tokens(listener: Listener) -> None:
    start, lease = listener.clock.now(), timedelta(seconds=60)
    with transaction(listener.engine) as connection:
        retrieval.ask(connection, "1.2", Kind.MISSING, "1.2", now=start)
    first = retrieval.claim(listener.engine, now=start, lease=lease, attempts=3)
    second = retrieval.claim(listener.engine, now=start + lease, lease=lease, attempts=3)
    assert first is not None
    assert second is not None
    assert (first.attempts, second.attempts, second.token) == (1, 2, 2)
    for claimed, holds in ((first, False), (second, True)):
        with transaction(listener.engine) as connection:
            assert retrieval.renew(connection, claimed, until=start + 3 * lease) == holds
            assert retrieval.will_ask_for(connection, claimed, ["1.2.3"], sender_ae="") == holds
            settled = retrieval.settle(connection, claimed, State.DONE, reason="", now=start, due_at=start, came=0)
            assert settled == holds
