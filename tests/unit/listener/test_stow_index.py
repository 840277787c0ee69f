"""What the index makes of instances that came by STOW-RS, by C-STORE or both ways."""

from typing import Any

import pytest

from hilum.adapters.sql.tables import instances, quarantine, studies
from hilum.testing.dicom_files import chest_image
from hilum_listener.testing_stow import IMAGE, PIXELS, Door, body_of, failures


def test_the_same_instance_again_changes_nothing_in_the_index(door: Door, part10: Any) -> None:
    for _ in range(2):
        assert failures(door.post(body_of([part10()]))) == [None]
        door.listener.step()
    (row,) = door.listener.rows(instances)
    assert row.sop_instance_uid == IMAGE.SOPInstanceUID
    assert door.listener.rows(quarantine) == []
    (study,) = door.listener.rows(studies)
    assert (study.study_instance_uid, study.calling_ae) == (IMAGE.StudyInstanceUID, "WEB")


def test_an_instance_that_comes_by_c_store_as_well_is_the_same_one(door: Door, part10: Any) -> None:
    door.listener.receive(IMAGE)
    assert failures(door.post(body_of([part10()]))) == [None]
    door.listener.step()
    assert len(door.listener.rows(instances)) == 1
    assert door.listener.rows(quarantine) == []


@pytest.mark.parametrize(
    "change", [{"BodyPartExamined": "RIB"}, {"BodyPartExamined": "CHESTS"}, {"PixelData": PIXELS.tobytes()[::-1]}]
)
def test_other_content_under_the_same_uid_is_quarantined_whichever_way_it_comes(
    door: Door, part10: Any, change: dict[str, Any]
) -> None:
    door.listener.receive(IMAGE)
    door.post(body_of([part10(chest_image(PIXELS, **change))]))
    door.listener.step()
    assert len(door.listener.rows(instances)) == len(door.listener.rows(quarantine)) == 1


def test_the_same_bytes_in_another_transfer_syntax_are_not_the_same(door: Door, part10: Any) -> None:
    door.listener.receive(IMAGE)
    syntax = b"1.2.840.10008.1.2.1\0"
    door.post(body_of([part10().replace(syntax, b"1.2.840.113619.5.2\0\0")]))
    door.listener.step()
    assert len(door.listener.rows(quarantine)) == 1
