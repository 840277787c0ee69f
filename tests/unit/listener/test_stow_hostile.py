"""The same bytes end the same way, whichever door they come through: kept, and quarantined for the same reason."""

from typing import Any

import pytest

from hilum.adapters.sql.tables import instances, quarantine
from hilum.testing.dicom_files import chest_image
from hilum.testing.hostile_files import CR, DEFLATED, EXPLICIT, bomb, data_set, nested, uids
from hilum_listener.handlers.part10 import file_head
from hilum_listener.handlers.receive import Status
from hilum_listener.handlers.stow import Failure, StoreWarning
from hilum_listener.testing import encoded_dataset
from hilum_listener.testing_stow import PIXELS, Door, body_of, failures

UID = "1.2.3.66"


def file_of(dataset: bytes, syntax: str) -> bytes:
    return file_head(sop_class_uid=CR, sop_instance_uid=UID, transfer_syntax_uid=syntax) + dataset


HOSTILE = {
    "sequences without end": (data_set("66", before=nested(200, defined=False)), EXPLICIT),
    "sequences too deep": (data_set("66", before=nested(260, defined=True)), EXPLICIT),
    "a bomb": (bomb("66", zeros_mb=80), DEFLATED),
    "no study": (uids("66"), EXPLICIT),
    "a study that is no UID": (data_set("66", study="x"), EXPLICIT),
    "noise behind its UIDs": (uids("66") + bytes(range(256)) * 4, EXPLICIT),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_c_store_keeps_for_quarantine_stow_keeps_as_well_and_warns(door: Door, what: str) -> None:
    dataset, syntax = HOSTILE[what]
    assert door.listener.receive(dataset, sop_uid=UID, sop_class=CR, syntax=syntax) == Status.SUCCESS
    door.listener.step()
    (by_c_store,) = door.listener.rows(quarantine)
    sent = file_of(dataset, syntax) + b"\0\0"  # else it is the same file, which is listed once
    (outcome,) = door.post(body_of([sent]))
    assert (outcome.failure, outcome.sop_instance_uid) == (None, UID)
    assert outcome.warning is StoreWarning.DOES_NOT_MATCH_SOP_CLASS
    door.listener.step()
    assert [row.reason for row in door.listener.rows(quarantine)] == [by_c_store.reason] * 2
    assert sent in door.files()


@pytest.mark.parametrize("what", HOSTILE)
def test_a_request_for_one_study_takes_nothing_of_which_nobody_can_tell_whose_it_is(door: Door, what: str) -> None:
    dataset, syntax = HOSTILE[what]
    assert failures(door.post(body_of([file_of(dataset, syntax)]), study="1.2.4.1")) == [Failure.CANNOT_UNDERSTAND]
    assert door.files() == []


def test_no_data_set_is_refused_at_both_doors(door: Door) -> None:
    assert door.listener.receive(b"", sop_uid=UID, sop_class=CR) == Status.CANNOT_UNDERSTAND
    assert failures(door.post(body_of([file_of(b"", EXPLICIT)]))) == [Failure.CANNOT_UNDERSTAND]
    assert door.files() == []


def test_a_data_set_that_names_another_object_is_refused_at_both_doors(door: Door, part10: Any, tmp_path: Any) -> None:
    dataset = part10(chest_image(PIXELS, name="other"))
    (tmp_path / "other.dcm").write_bytes(dataset)
    encoded = encoded_dataset(tmp_path / "other.dcm")
    assert door.listener.receive(encoded, sop_uid=UID, sop_class=CR) == Status.DOES_NOT_MATCH_SOP_CLASS
    assert failures(door.post(body_of([file_of(encoded, EXPLICIT)]))) == [Failure.DOES_NOT_MATCH_SOP_CLASS]


def test_deep_sequences_cost_the_next_part_nothing(door: Door) -> None:
    parts = [file_of(*HOSTILE["sequences too deep"]), b"noise", file_of(data_set("66"), EXPLICIT)]
    assert failures(door.post(body_of(parts))) == [None, Failure.CANNOT_UNDERSTAND, None]
    door.listener.step()
    assert len(door.listener.rows(instances)) == len(door.listener.rows(quarantine)) == 1
