"""What a STOW-RS request leaves in the spool and the journal when something fails, and when it may answer."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from hilum.adapters.sql.tables import instances, quarantine
from hilum_listener.handlers.journal import AssociationChanged, NotJournaled
from hilum_listener.handlers.spool import Spool
from hilum_listener.handlers.stow import (
    Failure,
    Outcome,
    Transaction,
)
from hilum_listener.testing_stow import BOUNDARY, IMAGE, Door, body_of, failures, named


@pytest.mark.parametrize("call", ["writev", "fdatasync"])
def test_a_full_disk_is_out_of_resources_for_the_instance_by_name_and_leaves_nothing(
    door: Door, part10: Any, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        outcomes = door.post(body_of([part10()]))
    assert outcomes == [Outcome(IMAGE.SOPClassUID, IMAGE.SOPInstanceUID, failure=Failure.OUT_OF_RESOURCES)]
    assert (door.files(), door.half_written(), door.received()) == ([], [], [])
    assert failures(door.post(body_of([part10()]))) == [None], "the sender can try again"


@pytest.mark.parametrize(("error", "stays"), [(NotJournaled, False), (OSError, True)])
def test_only_what_no_journal_can_name_is_removed_when_the_entry_is_not_durable(
    door: Door, part10: Any, monkeypatch: pytest.MonkeyPatch, error: type[OSError], stays: bool
) -> None:
    def fail(*_args: Any, **_more: Any) -> None:
        raise error(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(door.listener.journal, "append", fail)
    assert failures(door.post(body_of([part10()]))) == [Failure.OUT_OF_RESOURCES]
    assert bool(door.files()) is stays


def test_a_part_whose_entry_could_not_be_synced_can_be_sent_again_and_is_indexed_once(
    door: Door, part10: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.post(body_of([part10(named("first"))]))
    real = os.fdatasync

    def fail(fd: int) -> None:
        if "/journal/" in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        assert failures(door.post(body_of([part10()]))) == [Failure.OUT_OF_RESOURCES]
    door.listener.step()  # the entry is there, and so is its file
    assert failures(door.post(body_of([part10()]))) == [None]
    door.listener.step()
    assert len(door.listener.rows(instances)) == 2
    assert door.listener.rows(quarantine) == []


def test_below_the_free_space_to_keep_nothing_is_taken(door: Door, part10: Any) -> None:
    door.listener.spool = Spool(door.listener.places, min_free_bytes=1 << 62)
    assert failures(door.post(body_of([part10()]))) == [Failure.OUT_OF_RESOURCES]
    assert (door.files(), door.half_written()) == ([], [])


def test_the_answer_comes_after_each_file_and_each_entry_is_synced(
    door: Door, part10: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.post(body_of([part10(named("first"))]))  # the journal is there now
    synced: list[Path] = []
    for call in ("fdatasync", "fsync"):
        real = getattr(os, call)

        def noted(fd: int, real: Any = real) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{fd}"))
            real(fd)
            synced.append(path)

        monkeypatch.setattr(os, call, noted)
    before = {entry.uri for entry in door.received()}
    assert failures(door.post(body_of([part10(named("a")), part10(named("b"))]))) == [None, None]
    new = {entry.uri for entry in door.received()} - before
    files = {door.listener.places.spool / uri.removeprefix("spool:") for uri in new}
    journal = [at for at, path in enumerate(synced) if path.parent == door.listener.places.journal]
    assert len(files) == 2
    assert files <= set(synced[: journal[-1]])


def test_a_request_that_is_given_up_leaves_nothing_half_written(door: Door, part10: Any) -> None:
    transaction = Transaction(BOUNDARY, door.store())
    transaction.feed(body_of([part10(named("a")), part10(named("b"))])[:-100])
    assert door.half_written()
    transaction.close()
    assert door.half_written() == []
    assert len(door.files()) == len(door.received()) == 1
    transaction.feed(b"more")  # what another thread may still bring changes nothing
    assert len(transaction.outcomes) == 1


def test_the_journal_can_tell_when_a_request_began_and_ended(door: Door) -> None:
    store = door.store()
    store.note("opened")
    store.note("released")
    changes = [entry for entry in door.entries() if isinstance(entry, AssociationChanged)]
    assert [(c.change, c.association) for c in changes] == [("opened", "w-1"), ("released", "w-1")]
