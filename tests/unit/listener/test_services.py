"""Procedure steps, notifications and commitment requests are durable before they are answered, and bounded."""

import errno
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset

from hilum.domain.identity import derive_uid
from hilum.testing.clock import SetClock
from hilum_listener.handlers import attributes, availability, commitment, mpps
from hilum_listener.handlers.attributes import Answer, ServiceRequest
from hilum_listener.handlers.commitment import MODEL_INSTANCE
from hilum_listener.handlers.desk import Desk, answer
from hilum_listener.handlers.journal import JournalWriter, NoticeReceived, read
from hilum_listener.handlers.notices import Kind, NoticeStore, name_of
from hilum_listener.settings import Places
from hilum_listener.testing import START
from hilum_listener.testing_services import asks_for, available, service_request, step_begins, step_ends

STEP, CR = "1.2.3.4", "1.2.840.10008.5.1.4.1.1.1"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return new_desk(tmp_path)


def new_desk(data: Path, *, after_restart: int = 0) -> Desk:
    """What a process knows that starts on this data folder."""
    places = Places(data)
    places.journal.mkdir(parents=True, exist_ok=True)
    places.incoming.mkdir(parents=True, exist_ok=True)
    clock = SetClock(START)
    clock.advance(after_restart * (START - START.replace(hour=11)))
    return Desk(NoticeStore(places), JournalWriter(places.journal, started_at=clock.now()), clock.now)


def noted(data: Path) -> list[NoticeReceived]:
    paths = sorted(Places(data).journal.glob("*.jsonl"))
    entries = [entry for path in paths for entry, _ in read(path, 0).entries]
    return [entry for entry in entries if isinstance(entry, NoticeReceived)]


def image(uid: str, sop_class: str = CR) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, uid
    return dataset


def create(desk: Desk, dataset: Dataset | bytes, *, uid: str = STEP) -> Answer:
    return answer(mpps.create, service_request(dataset, uid=uid), desk)


def update(desk: Desk, dataset: Dataset | bytes, *, uid: str = STEP) -> Answer:
    return answer(mpps.update, service_request(dataset, uid=uid), desk)


def ask(desk: Desk, dataset: Dataset | bytes, *, uid: str = MODEL_INSTANCE, action: int = 1) -> Answer:
    def service(request: ServiceRequest, at: Desk) -> Answer:
        return commitment.ask(request, at, action_type=action)

    return answer(service, service_request(dataset, uid=uid), desk)


def test_a_step_goes_from_its_begin_to_its_end_and_each_change_is_journaled(desk: Desk, tmp_path: Path) -> None:
    assert create(desk, step_begins()).status == 0x0000
    assert update(desk, step_ends([image("1.5")], "IN PROGRESS")).status == 0x0000
    assert update(desk, step_ends([image("1.5"), image("1.6")])).status == 0x0000
    content = desk.store.read("step", name_of("step", STEP))
    assert content is not None
    assert (content["status"], content["instances"]) == ("COMPLETED", [[CR, "1.5"], [CR, "1.6"]])
    assert [entry.kind for entry in noted(tmp_path)] == ["step"] * 3


def test_the_implicit_and_the_explicit_encoding_say_the_same(desk: Desk) -> None:
    for uid, implicit in (("1.1", True), ("1.2", False)):
        begin = service_request(step_begins(), uid=uid, implicit=implicit)
        end = service_request(step_ends([image("1.5")]), uid=uid, implicit=implicit)
        assert answer(mpps.create, begin, desk).status == answer(mpps.update, end, desk).status == 0x0000
    one, other = (desk.store.read("step", name_of("step", uid)) for uid in ("1.1", "1.2"))
    assert one is not None
    assert other is not None
    assert one["instances"] == other["instances"] == [[CR, "1.5"]]


def test_a_step_is_created_once_and_ends_once_also_for_a_process_that_starts_later(tmp_path: Path) -> None:
    create(new_desk(tmp_path), step_begins())
    desk = new_desk(tmp_path, after_restart=1)
    assert create(desk, step_begins()).status == 0x0111
    assert update(desk, step_ends([]), uid="1.9").status == 0x0112
    assert update(desk, step_ends([], "DISCONTINUED", reason=("110501", "DCM"))).status == 0x0000
    desk = new_desk(tmp_path, after_restart=2)
    refused = update(desk, step_ends([image("1.5")]))
    assert (refused.status, refused.error_id) == (0x0110, 0xA710)
    content = desk.store.read("step", name_of("step", STEP))
    assert content is not None
    assert (content["status"], content["reason"]) == ("DISCONTINUED", "Equipment failure")


def test_what_a_sender_writes_as_the_meaning_of_a_reason_goes_nowhere(desk: Desk, tmp_path: Path) -> None:
    create(desk, step_begins())
    update(desk, step_ends([], "DISCONTINUED", reason=("X1", "99LOCAL")))
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"Doe" not in everything
    assert b"T-1" not in everything


@pytest.mark.parametrize(
    ("dataset", "status"),
    [
        (step_begins(status="COMPLETED"), 0x0106),
        (step_begins(status="ANYTHING"), 0x0106),
        (Dataset(), 0x0120),
        (b"", 0x0120),
        (b"\x08\x00\x05\x00CS\xff\x00", 0x0110),
        (bytes(attributes.MAX_BYTES + 1), 0x0213),
    ],
)
def test_a_step_that_says_too_little_or_too_much_is_refused(desk: Desk, dataset: Dataset | bytes, status: int) -> None:
    assert create(desk, dataset).status == status
    assert desk.store.read("step", name_of("step", STEP)) is None


def test_a_step_of_no_study_is_refused(desk: Desk) -> None:
    dataset = step_begins()
    dataset.ScheduledStepAttributesSequence[0].StudyInstanceUID = ""
    assert create(desk, dataset).status == 0x0120


def test_more_images_than_any_examination_has_are_refused_and_the_step_stays_open(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(desk, step_begins())
    monkeypatch.setattr(attributes, "MAX_REFERENCES", 3)
    assert update(desk, step_ends([image(f"1.{n}") for n in range(5)])).status == 0x0213
    assert update(desk, step_ends([image(f"1.{n}") for n in range(3)])).status == 0x0000


def test_a_step_without_a_uid_gets_one_of_its_own(desk: Desk) -> None:
    given = [create(desk, step_begins(), uid="").sop_instance_uid]
    given.append(answer(mpps.create, service_request(step_begins(), uid="", over="a-2"), desk).sop_instance_uid)
    assert len(set(given)) == 2
    assert update(desk, step_ends([]), uid=given[0]).status == 0x0000


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("fails", ["fdatasync", "fsync"])
def test_a_disk_that_refuses_is_no_success_and_the_same_request_succeeds_later(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, number: int, fails: str
) -> None:
    def fail(*_args: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, fails, fail)
        assert create(desk, step_begins()).status == 0x0110
        assert ask(desk, asks_for("t", [(CR, "1.5")])).status == 0x0110
    assert create(desk, step_begins()).status in (0x0000, 0x0111)
    assert ask(desk, asks_for("t", [(CR, "1.5")])).status == 0x0000


def test_a_step_whose_journal_entry_a_kill_prevented_is_journaled_when_it_is_sent_again(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Desk, "note", _dies)
        with pytest.raises(KeyboardInterrupt):
            create(desk, step_begins())
    assert noted(tmp_path) == []
    assert create(desk, step_begins()).status == 0x0111
    assert [entry.name for entry in noted(tmp_path)] == [name_of("step", STEP)]


def _dies(*_: object) -> None:
    raise KeyboardInterrupt


def test_ends_that_meet_are_one_end(desk: Desk) -> None:
    create(desk, step_begins())
    ends = [step_ends([image(f"1.{n}")]) for n in range(8)]
    found: list[int] = []
    threads = [threading.Thread(target=lambda end=end: found.append(update(desk, end).status)) for end in ends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0x0000, *[0x0110] * 7]


def test_a_notification_is_known_once_and_names_what_is_there(desk: Desk, tmp_path: Path) -> None:
    for status in (0x0000, 0x0111):
        assert answer(availability.notify, service_request(available([image("1.5")])), desk).status == status
    away = available([image("1.6")], availability="OFFLINE")
    assert answer(availability.notify, service_request(away, uid="1.2.4"), desk).status == 0x0000
    contents = [desk.store.read(entry.kind, entry.name) for entry in noted(tmp_path)]
    assert [content["instances"] for content in contents if content] == [[[CR, "1.5"]], [[CR, "1.5"]], []]
    assert answer(availability.notify, service_request(Dataset(), uid="1.2.5"), desk).status == 0x0120


def test_a_commitment_request_is_taken_again_and_again_as_long_as_it_asks_for_the_same(
    desk: Desk, tmp_path: Path
) -> None:
    asked = asks_for("t", [(CR, "1.5"), (CR, "1.6"), (CR, "1.5")])
    assert [ask(desk, asked).status for _ in range(2)] == [0x0000, 0x0000]
    assert ask(desk, asks_for("t", [(CR, "1.7")])).status == 0x0110
    (entry, _again) = noted(tmp_path)
    content = desk.store.read(entry.kind, entry.name)
    assert content is not None
    assert content["instances"] == [[CR, "1.5"], [CR, "1.6"]]
    assert content["transaction_uid"] == derive_uid("transaction", "t")


@pytest.mark.parametrize(
    ("change", "options", "status"),
    [
        (lambda _: None, {"uid": "1.2"}, 0x0112),
        (lambda _: None, {"action": 2}, 0x0123),
        (lambda asked: asked.pop("TransactionUID"), {}, 0x0115),
        (lambda asked: asked.pop("ReferencedSOPSequence"), {}, 0x0115),
    ],
)
def test_a_commitment_request_that_is_none_is_refused(
    desk: Desk, tmp_path: Path, change: Callable[[Dataset], object], options: dict[str, Any], status: int
) -> None:
    asked = asks_for("t", [(CR, "1.5")])
    change(asked)
    assert ask(desk, asked, **options).status == status
    assert noted(tmp_path) == []


@given(st.binary(max_size=400))
def test_no_bytes_break_a_service(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    desk = new_desk(tmp_path_factory.getbasetemp() / "fuzzed")
    for service in (mpps.create, mpps.update, availability.notify):
        assert answer(service, service_request(content), desk).status in (0x0110, 0x0112, 0x0106, 0x0120, 0x0213)


def test_old_notices_are_removed_part_by_part_and_recent_ones_stay(desk: Desk) -> None:
    create(desk, step_begins())
    assert ask(desk, asks_for("t", [(CR, "1.5")])).status == 0x0000
    written = datetime.now(UTC)  # files carry the machine's own time
    hour = timedelta(hours=1)
    assert sum(desk.store.prune(written - hour, part=part) for part in range(256)) == 0
    assert update(desk, step_ends([], "IN PROGRESS")).status == 0x0000
    assert sum(desk.store.prune(written + hour, part=part) for part in range(256)) == 2
    assert update(desk, step_ends([])).status == 0x0112


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a" * 39, "A" * 40, "a" * 40 + "/.."])
def test_a_notice_has_no_name_but_a_digest(desk: Desk, name: str) -> None:
    with pytest.raises(ValueError, match="name of a notice"):
        desk.store.read("step", name)
    with pytest.raises(ValueError, match="name of a notice"):
        desk.store.write(Kind.STEP, name, {})
