"""When studies are complete: steps, notifications and counts first; every way of sending has a defined outcome."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import ComprehensiveSRStorage

from hilum.adapters.sql.tables import instances, procedure_steps, quarantine, studies, study_senders
from hilum.domain.identity import derive_uid
from hilum.ports.counts import Expected
from hilum.runtime.config import RuleConfig
from hilum.testing.dicom_files import chest_image
from hilum_listener.handlers import availability, mpps
from hilum_listener.handlers.desk import Service, answer
from hilum_listener.testing import QUIET, Listener
from hilum_listener.testing_services import available, service_request, step_begins, step_ends

SECOND = timedelta(seconds=1)
STEP = "1.2.3.4"


def image(name: str, study: str = "study") -> Dataset:
    return chest_image(np.zeros((8, 8), np.uint16), study=study, name=name)


def tell(listener: Listener, service: Service, dataset: Dataset, *, uid: str = STEP) -> None:
    assert answer(service, service_request(dataset, uid=uid), listener.desk).status == 0x0000


def reasons(listener: Listener) -> list[tuple[int, int, str]]:
    """Revision, number of images and reason of each study.ready, oldest first."""
    return [(m.revision, sum(len(s.instances) for s in m.series), m.complete_reason) for m in listener.ready()]


def test_a_step_in_progress_holds_the_study_and_its_end_with_all_images_completes_it_at_once(
    listener: Listener,
) -> None:
    tell(listener, mpps.create, step_begins())
    listener.image(name="1")
    listener.step(after=QUIET * 100)
    assert reasons(listener) == []
    tell(listener, mpps.update, step_ends([image("1"), image("2")]))
    listener.step(after=QUIET * 100)
    assert reasons(listener) == [], "one is missing"
    listener.image(name="2")
    listener.step()
    assert reasons(listener) == [(1, 2, "the procedure step is completed, its 2 images are all here")]


def test_a_discontinued_step_completes_what_it_made_and_says_why(listener: Listener) -> None:
    tell(listener, mpps.create, step_begins())
    listener.image(name="1")
    tell(listener, mpps.update, step_ends([image("1")], "DISCONTINUED", reason=("110501", "DCM")))
    listener.step()
    assert reasons(listener) == [
        (1, 1, "the procedure step was discontinued (Equipment failure), its one image is here")
    ]


def test_a_step_that_never_ends_completes_at_the_maximum_age_counted_from_the_first_image(listener: Listener) -> None:
    tell(listener, mpps.create, step_begins())
    listener.step(after=timedelta(days=1))
    listener.image(name="1")
    listener.step(after=listener.settings.max_age - SECOND)
    assert reasons(listener) == []
    listener.step(after=SECOND)
    assert reasons(listener) == [(1, 1, "the maximum age of 3600 s is reached, a procedure step is still IN PROGRESS")]


def test_two_steps_of_one_study_are_both_waited_for(listener: Listener) -> None:
    for uid in ("1.1", "1.2"):
        tell(listener, mpps.create, step_begins(), uid=uid)
    listener.image(name="1")
    tell(listener, mpps.update, step_ends([image("1")]), uid="1.1")
    listener.step(after=QUIET * 10)
    assert reasons(listener) == []
    listener.image(name="2")
    tell(listener, mpps.update, step_ends([image("2")]), uid="1.2")
    listener.step()
    assert [row[:2] for row in reasons(listener)] == [(1, 2)]


def test_a_late_image_is_a_new_revision_that_the_old_list_proves_nothing_about(listener: Listener) -> None:
    tell(listener, mpps.create, step_begins())
    listener.image(name="1")
    tell(listener, mpps.update, step_ends([image("1")]))
    listener.step()
    for name in ("late 1", "late 2"):
        listener.image(name=name)
        listener.step()
    assert len(reasons(listener)) == 1, "not one revision for each late image"
    listener.step(after=QUIET)
    assert reasons(listener)[1:] == [(2, 3, "the procedure step is completed, no image for 5 s")]


def test_reports_in_the_list_are_not_waited_for_and_those_that_come_do_not_count(listener: Listener) -> None:
    report = image("report")
    report.SOPClassUID = ComprehensiveSRStorage
    tell(listener, mpps.create, step_begins())
    listener.image(name="1")
    tell(listener, mpps.update, step_ends([image("1"), report]))
    listener.step()
    assert [row[:2] for row in reasons(listener)] == [(1, 1)]


def test_what_is_listed_and_turns_out_to_be_no_image_is_left_out_of_the_comparison(listener: Listener) -> None:
    raw = chest_image(
        np.zeros((8, 8), np.uint16), name="raw", SOPClassUID="1.3.12.2.1107.5.9.1", Rows=None, Columns=None
    )
    tell(listener, mpps.create, step_begins())
    listener.image(name="1")
    tell(listener, mpps.update, step_ends([image("1"), raw]))
    listener.step(after=QUIET * 10)
    assert reasons(listener) == [], "a vendor's class may hold images"
    listener.receive(raw)
    listener.step()
    assert reasons(listener) == [(1, 1, "the procedure step is completed, its one image is here")]


def test_a_step_for_a_study_without_images_opens_nothing(listener: Listener) -> None:
    tell(listener, mpps.create, step_begins())
    tell(listener, mpps.update, step_ends([]))
    listener.step(after=timedelta(days=1))
    assert listener.rows(studies) == []
    assert [row.status for row in listener.rows(procedure_steps)] == ["COMPLETED"]


def test_a_notification_completes_what_it_lists_and_waits_for_what_is_missing(listener: Listener) -> None:
    listener.image(name="1")
    tell(listener, availability.notify, available([image("1"), image("2")]))
    listener.step(after=QUIET * 10)
    assert reasons(listener) == []
    listener.image(name="2")
    listener.step()
    assert reasons(listener) == [(1, 2, "an availability notification came, its 2 images are all here")]


def test_a_step_that_ended_without_a_list_leaves_it_to_silence(listener: Listener) -> None:
    tell(listener, mpps.create, step_begins())
    listener.image(name="1")
    tell(listener, mpps.update, step_ends([]))
    listener.step(after=QUIET - SECOND)
    assert reasons(listener) == []
    listener.step(after=SECOND)
    assert reasons(listener) == [(1, 1, "the procedure step is completed, no image for 5 s")]


class Counts:
    """An archive's answers, each given at a time."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, datetime]] = {}
        self.news: list[str] = []

    def say(self, study: str, count: int, at: datetime) -> None:
        uid = derive_uid("test-study", study)
        self.answers[uid] = (count, at)
        self.news.append(uid)

    def expected(self, study_instance_uid: str, *, since: datetime) -> Expected:
        count, at = self.answers.get(study_instance_uid, (0, since))
        return Expected(count if at > since else None)

    def changed(self) -> Iterable[str]:
        news, self.news = self.news, []
        return news


def test_an_archives_count_completes_or_holds_a_study_and_an_old_one_says_nothing(listener: Listener) -> None:
    counts = Counts()
    listener.counts = counts
    listener.assembler = listener.new_assembler()
    listener.image(name="1")
    listener.step(after=SECOND)
    counts.say("study", 2, listener.clock.now())
    listener.step(after=QUIET * 10)
    assert reasons(listener) == [], "one is missing"
    listener.image(name="2")
    listener.step(after=SECOND)
    assert reasons(listener) == [], "the count is older than the last image"
    counts.say("study", 2, listener.clock.now())
    listener.step()
    assert reasons(listener) == [(1, 2, "the archive was asked, its 2 images are all here")]


def test_an_association_that_breaks_in_the_middle_makes_the_study_wait_for_the_rest(listener: Listener) -> None:
    listener.image(name="1", over="a")
    listener.end("a", "aborted")
    listener.step(after=QUIET)
    assert reasons(listener) == []
    listener.image(name="2")  # the sender comes back on another one, and releases it
    listener.step()
    listener.step(after=QUIET)
    assert reasons(listener) == [(1, 2, "no image for 5 s")]


def test_a_study_whose_sender_never_comes_back_is_completed_and_says_so(listener: Listener) -> None:
    listener.image(name="1", over="a")
    listener.end("a", "aborted")
    listener.step(after=timedelta(seconds=60))
    assert reasons(listener) == [(1, 1, "no image for 60 s after an association broke")]
    assert listener.rows(study_senders) == []


def test_an_association_that_stays_open_is_waited_for_but_not_for_ever(listener: Listener) -> None:
    listener.image(name="1", over="a")
    listener.step(after=QUIET * 2)
    assert reasons(listener) == []
    listener.step(after=timedelta(seconds=60) - QUIET * 2)
    assert reasons(listener) == [(1, 1, "no image for 60 s on an association that is still open")]


def test_the_quiet_time_counts_once_the_association_is_released(listener: Listener) -> None:
    listener.image(name="1", over="a")
    listener.step(after=QUIET * 2)
    listener.end("a")
    listener.step()
    assert reasons(listener) == [(1, 1, "no image for 5 s")]


def test_an_end_that_is_folded_before_the_images_of_its_association_counts(listener: Listener) -> None:
    listener.end("a")
    listener.step()
    listener.image(name="1", over="a")
    listener.step(after=QUIET)
    assert reasons(listener) == [(1, 1, "no image for 5 s")]


def test_two_senders_of_one_study_make_one_study_that_waits_for_both(listener: Listener) -> None:
    listener.image(name="1", over="modality", calling="MODALITY")
    listener.image(name="2", over="pacs", calling="PACS")
    listener.end("modality")
    listener.step(after=QUIET * 2)
    assert reasons(listener) == [], "the other one may have more"
    listener.image(name="1", over="pacs", calling="PACS")  # the same image again, as the PACS forwards it
    listener.end("pacs")
    listener.step()
    assert reasons(listener) == [(1, 2, "no image for 5 s")]
    assert len(listener.rows(instances)) == 2
    assert listener.rows(quarantine) == []


def test_two_senders_that_disagree_about_an_image_change_nothing_of_the_first(listener: Listener) -> None:
    listener.image(name="1", calling="MODALITY")
    listener.image(name="1", calling="PACS", PatientName="Coerced^Name")
    listener.step(after=QUIET)
    assert [(row.calling_ae, row.reason) for row in listener.rows(quarantine)] == [
        ("PACS", "other bytes under the UID of an instance that is already here")
    ]
    assert [row[:2] for row in reasons(listener)] == [(1, 1)]


def test_one_patient_id_of_two_issuers_is_two_patients_in_two_studies_and_a_conflict_in_one(
    listener: Listener,
) -> None:
    for study, issuer in (("a", "HOSPITAL"), ("b", "CLINIC")):
        listener.image(study=study, name="1", IssuerOfPatientID=issuer)
    listener.step()
    headers = {row.header["patient"]["issuer"]: row for row in listener.rows(studies)}
    assert set(headers) == {"HOSPITAL", "CLINIC"}
    assert {row.conflict for row in headers.values()} == {""}
    listener.image(study="a", name="2", IssuerOfPatientID="CLINIC")
    listener.step(after=QUIET)
    conflicts = {row.header["patient"]["issuer"]: row.conflict for row in listener.rows(studies)}
    assert conflicts == {"HOSPITAL": "objects of this study name different issuers of the patient id", "CLINIC": ""}
    assert len(listener.ready()) == 2, "it ends in a visible state all the same"


def test_images_that_are_sent_again_neither_hold_nor_reopen_a_study(listener: Listener) -> None:
    listener.image(name="1")
    listener.step(after=QUIET)
    listener.image(name="1", over="again")
    listener.step(after=timedelta(hours=2))
    assert len(reasons(listener)) == 1
    assert listener.rows(study_senders) == []


def test_the_most_patient_modality_of_a_study_sets_its_quiet_time(listener: Listener) -> None:
    listener.settings = replace(listener.settings, quiet_time_by_modality={"MR": timedelta(seconds=30)})
    listener.assembler = listener.new_assembler()
    listener.image(study="cr", name="1")
    listener.image(study="mr", name="1", Modality="MR")
    listener.step(after=QUIET)
    assert [row[2] for row in reasons(listener)] == ["no image for 5 s"]
    listener.step(after=timedelta(seconds=25))
    assert [row[2] for row in reasons(listener)] == ["no image for 5 s", "no image for 30 s"]


def starts_early(listener: Listener) -> None:
    rule = RuleConfig(name="chest", modalities=("CR",), start="first series").to_domain()
    listener.settings = replace(listener.settings, early_rules=(rule,))
    listener.assembler = listener.new_assembler()


def test_a_rule_may_start_on_its_first_series_while_the_rest_of_the_study_still_comes(listener: Listener) -> None:
    starts_early(listener)
    tell(listener, mpps.create, step_begins())
    listener.image(name="ct", Modality="CT", SeriesInstanceUID="1.7")
    listener.step(after=QUIET * 2)
    assert reasons(listener) == [], "the rule takes none of it"
    listener.image(name="1")
    listener.step(after=QUIET - SECOND)
    assert reasons(listener) == [], "the series may go on"
    listener.step(after=SECOND)
    early = "started early: rule 'chest' takes 1 image of a series that is quiet for 5 s"
    assert reasons(listener) == [(1, 2, early)]
    listener.step(after=QUIET * 9)
    listener.image(name="2")
    listener.step(after=QUIET * 9)
    assert len(reasons(listener)) == 1, "it starts once"
    tell(listener, mpps.update, step_ends([image("1"), image("2"), image("ct")]))
    listener.step()
    assert reasons(listener)[1:] == [(2, 3, "the procedure step is completed, its 3 images are all here")]
    assert not listener.rows(studies)[0].receiving


def test_what_started_early_and_then_turns_out_complete_is_not_examined_twice(listener: Listener) -> None:
    starts_early(listener)
    tell(listener, mpps.create, step_begins())
    listener.image(name="1")
    listener.step(after=QUIET)
    tell(listener, mpps.update, step_ends([image("1")]))
    listener.step(after=QUIET)
    assert [row[:2] for row in reasons(listener)] == [(1, 1)]
    assert [(row.revision, row.receiving) for row in listener.rows(studies)] == [(1, False)]
    listener.image(name="late")
    listener.step(after=QUIET)
    assert [row[:2] for row in reasons(listener)] == [(1, 1), (2, 2)]


def test_a_complete_study_does_not_start_early(listener: Listener) -> None:
    starts_early(listener)
    listener.image(name="1")
    listener.step(after=QUIET)
    assert reasons(listener) == [(1, 1, "no image for 5 s")]


@pytest.mark.parametrize("after_begin", [True, False])
def test_a_new_assembler_knows_the_steps_that_an_earlier_one_folded(listener: Listener, after_begin: bool) -> None:
    tell(listener, mpps.create, step_begins())
    listener.image(name="1")
    if after_begin:
        listener.step()
        listener.assembler = listener.new_assembler()
    listener.step(after=QUIET * 3)
    assert reasons(listener) == []
    tell(listener, mpps.update, step_ends([image("1")]))
    listener.assembler = listener.new_assembler()
    listener.step()
    assert len(reasons(listener)) == 1
