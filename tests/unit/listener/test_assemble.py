"""Journal entries become studies, and studies become complete; nothing is lost and nothing happens twice."""

from datetime import timedelta

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import ComprehensiveSRStorage

from hilum.adapters.sql.tables import instances, journal_positions, quarantine, revisions, series, studies
from hilum.domain.errors import Busy
from hilum.domain.identity import derive_uid, study_key
from hilum.testing.dicom_files import chest_image, write
from hilum_listener.handlers import assemble
from hilum_listener.handlers.index import fold
from hilum_listener.testing import QUIET, START, Listener, encoded_dataset, stored_files

SHORTLY = timedelta(microseconds=1)


def report(study: str = "study", name: str = "report", *, own: bool = False) -> Dataset:
    """A structured report; `own` gives it the contributing equipment that Hilum's have."""
    dataset = chest_image(np.zeros((2, 2), np.uint8), study=study, name=name, SOPClassUID=ComprehensiveSRStorage)
    dataset.SeriesInstanceUID = derive_uid("sr-series", study, str(own))
    dataset.Modality = "SR"
    for keyword in ("Rows", "Columns", "PixelData", "SamplesPerPixel", "PhotometricInterpretation", "BodyPartExamined"):
        delattr(dataset, keyword)
    equipment = Dataset()
    equipment.Manufacturer = "Hilum"
    equipment.DeviceSerialNumber = "ab" * 32
    equipment.DeviceUID = derive_uid("device", "ab" * 32) if own else "1.2.3"
    dataset.ContributingEquipmentSequence = [equipment]
    return dataset


def test_an_image_opens_its_study_and_the_quiet_time_completes_it(listener: Listener) -> None:
    listener.image(StudyDescription="Chest PA", RequestedProcedurePriority="STAT")
    listener.step()
    (study,) = listener.rows(studies)
    assert (study.revision, study.receiving, study.modalities, study.order_priority) == (0, True, "CR", "stat")
    assert (study.study_key, study.calling_ae) == (study_key(study.study_instance_uid), "MODALITY")
    assert study.header["patient"]["patient_id"] == "T-1"
    listener.step(after=QUIET - SHORTLY)
    assert listener.ready() == []
    listener.step(after=SHORTLY)
    (message,) = listener.ready()
    assert (message.revision, message.complete_reason) == (1, "no image for 5 s")
    assert (message.last_received_at, message.completed_at) == (START, START + QUIET)
    assert message.series[0].instances[0].uri == listener.rows(instances)[0].uri
    (study,) = listener.rows(studies)
    assert (study.revision, study.receiving) == (1, False)


def test_each_image_starts_the_quiet_time_again(listener: Listener) -> None:
    for number in range(4):
        listener.image(name=str(number))
        listener.step(after=timedelta(seconds=4))
    assert listener.ready() == []
    listener.step(after=timedelta(seconds=1))
    assert [len(m.series[0].instances) for m in listener.ready()] == [4]


def test_a_late_image_makes_a_new_revision_after_its_own_quiet_time(listener: Listener) -> None:
    listener.image()
    listener.step(after=QUIET)
    listener.image(name="late")
    listener.step()
    assert listener.rows(studies)[0].receiving
    listener.step(after=QUIET)
    assert [(m.revision, len(m.series[0].instances)) for m in listener.ready()] == [(1, 1), (2, 2)]
    assert [row.instance_count for row in listener.rows(revisions)] == [1, 2]


def test_the_same_bytes_again_neither_reopen_nor_delay(listener: Listener) -> None:
    listener.image()
    listener.step(after=timedelta(seconds=4))
    listener.image()
    listener.step(after=timedelta(seconds=1))
    assert len(listener.ready()) == 1
    listener.image()
    listener.step(after=QUIET)
    assert len(listener.ready()) == 1
    assert len(listener.rows(instances)) == 1
    assert listener.rows(quarantine) == []


def test_other_bytes_under_a_known_uid_are_quarantined_and_overwrite_nothing(listener: Listener) -> None:
    listener.image()
    listener.step()
    before = listener.rows(instances)
    listener.image(PatientName="Other^Name")
    listener.step()
    assert listener.rows(instances) == before
    (row,) = listener.rows(quarantine)
    assert row.reason == "other bytes under the UID of an instance that is already here"
    assert (listener.places.spool / row.uri.removeprefix("spool:")).exists()
    assert row.uri != before[0].uri


def test_what_cannot_be_read_is_quarantined_once_with_its_bytes(listener: Listener) -> None:
    for _ in range(2):
        listener.receive(b"no data set whatever" * 10, sop_uid="1.2.3", sop_class="1.2")
    listener.step()
    (row,) = listener.rows(quarantine)
    assert (row.sop_instance_uid, bool(row.reason)) == ("1.2.3", True)
    assert (listener.places.spool / row.uri.removeprefix("spool:")).exists()
    assert listener.rows(studies) == []


def test_a_file_that_is_gone_is_quarantined_and_stops_no_one(listener: Listener) -> None:
    listener.image(study="gone")
    for path in stored_files(listener.places.spool):
        path.unlink()
    listener.image(study="there")
    listener.step()
    assert [row.reason for row in listener.rows(quarantine)] == ["the stored file can't be read (ENOENT)"]
    assert len(listener.rows(studies)) == 1


def test_two_patients_in_one_study_are_a_conflict_without_their_ids_and_the_study_goes_on(listener: Listener) -> None:
    listener.image(name="one")
    listener.image(name="two", PatientID="T-2")
    listener.step(after=QUIET)
    (study,) = listener.rows(studies)
    assert study.conflict == "objects of this study name different patient ids"
    assert len(listener.ready()[0].series[0].instances) == 2


def test_a_series_that_claims_two_studies_is_quarantined(listener: Listener) -> None:
    listener.image(study="one")
    listener.image(study="two", SeriesInstanceUID=derive_uid("test-series", "one"))
    listener.step()
    assert [row.reason for row in listener.rows(quarantine)] == ["its series belongs to another study"]
    assert len(listener.rows(studies)) == 1


def test_hilums_own_report_never_opens_reopens_or_counts(listener: Listener) -> None:
    listener.receive(report("alone", own=True))
    listener.image()
    listener.step(after=QUIET)
    listener.receive(report(own=True))
    listener.step(after=QUIET)
    assert [len(m.series) for m in listener.ready()] == [1]
    assert len(listener.rows(studies)) == 1
    assert len(listener.rows(instances)) == 3, "it is stored and indexed"


def test_a_report_of_someone_else_neither_reopens_nor_counts_where_images_are(listener: Listener) -> None:
    listener.image()
    listener.step(after=timedelta(seconds=4))
    listener.receive(report())
    listener.step(after=timedelta(seconds=1))
    listener.receive(report(name="later"))
    listener.step(after=QUIET)
    assert [[s.modality for s in m.series] for m in listener.ready()] == [["CR"]]
    assert listener.rows(studies)[0].modalities == "CR/SR"


def test_a_study_without_images_ends_too_and_its_first_image_describes_it(listener: Listener) -> None:
    listener.receive(report())
    listener.step(after=QUIET)
    listener.image(StudyDescription="Chest PA")
    listener.step(after=QUIET)
    assert [[s.modality for s in m.series] for m in listener.ready()] == [["SR"], ["CR"]]
    assert listener.rows(studies)[0].description == "Chest PA"


@pytest.mark.parametrize(
    ("declared", "name"),
    [
        ("ISO 2022 IR 6\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),
        ("GBK", "Wang^XiaoDong=王^小东".encode("gbk")),
        ("GB18030", "Wang^XiaoDong=王^小东".encode("gb18030")),
        ("ISO_IR 192", "Müller^Jörg".encode("latin_1")),  # declared UTF-8, written Latin-1
        ("ISO_IR 999", b"Nobody^\xff\xfe"),
    ],
)
def test_any_character_set_ends_in_the_index_with_the_bytes_kept(
    listener: Listener, declared: str, name: bytes
) -> None:
    dataset = chest_image(np.zeros((4, 4), np.uint16), PatientName=None)
    dataset.SpecificCharacterSet = None
    head = b"\x08\x00\x05\x00CS" + len(_even(declared.encode())).to_bytes(2, "little") + _even(declared.encode())
    path = listener.places.data / "x.dcm"
    encoded = encoded_dataset(write(path, dataset))
    where = encoded.index(b"\x10\x00\x20\x00LO")
    person = b"\x10\x00\x10\x00PN" + len(_even(name)).to_bytes(2, "little") + _even(name)
    sent = head + encoded[:where].replace(b"\x08\x00\x05\x00CS\x00\x00", b"") + person + encoded[where:]
    listener.receive(sent, sop_uid=dataset.SOPInstanceUID, sop_class=dataset.SOPClassUID)
    listener.step(after=QUIET)
    assert len(listener.ready()) == 1
    (row,) = listener.rows(instances)
    assert encoded_dataset(listener.places.spool / row.uri.removeprefix("spool:")) == sent


def _even(value: bytes) -> bytes:
    return value + b" " * (len(value) % 2)


def test_an_assembler_that_dies_before_its_commit_repeats_and_loses_nothing(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener.image(name="one")
    listener.image(name="two")
    real = fold
    calls = iter([False, True])

    def dies(*arguments: object) -> str:
        if next(calls):
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(assemble, "fold", dies)
        with pytest.raises(KeyboardInterrupt):
            listener.step()
    assert listener.rows(instances) == []
    assert listener.rows(journal_positions) == []
    listener.assembler = listener.new_assembler()
    listener.step(after=QUIET)
    assert len(listener.rows(instances)) == 2
    assert len(listener.ready()) == 1
    listener.assembler = listener.new_assembler()
    listener.step(after=QUIET)
    assert len(listener.ready()) == 1


def test_a_second_assembler_stands_back(listener: Listener) -> None:
    other = listener.new_assembler()
    listener.step()
    other.step()
    listener.image(name="one")
    listener.step()
    listener.image(name="two")
    with pytest.raises(Busy):
        other.step()
    assert len(listener.rows(instances)) == 1
    listener.step()
    assert len(listener.rows(instances)) == 2


def test_a_backlog_is_folded_before_any_study_is_judged(listener: Listener) -> None:
    for number in range(60):
        listener.image(name=str(number))
    listener.step(after=timedelta(hours=1))
    assert [len(m.series[0].instances) for m in listener.ready()] == [60]
    assert len(listener.rows(series)) == 1
