"""Procedure steps, notifications and storage commitment, met by pynetdicom at the real process."""

from collections.abc import Iterator
from pathlib import Path
from sys import executable

import numpy as np
import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import Engine

from hilum.adapters.dicom.requests import hold_reactor
from hilum.adapters.sql.database import database_path, open_database, reading
from hilum.adapters.sql.schema import migrate
from hilum.adapters.sql.tables import commitment_requests, commitments, revisions
from hilum.domain.identity import derive_uid
from hilum.testing.dicom_files import chest_image
from hilum.testing.external import Process, free_port, wait_until
from hilum_listener.testing_scp import Running, start_scp
from hilum_listener.testing_services import (
    AVAILABILITY,
    COMMITMENT,
    MPPS,
    Reports,
    Requester,
    ask,
    associated,
    available,
    step_begins,
    step_ends,
)

CR = "1.2.840.10008.5.1.4.1.1.1"


def image(name: str = "image", study: str = "study") -> Dataset:
    dataset = chest_image(np.arange(64, dtype=np.uint16).reshape(8, 8), study=study, name=name)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def reference(dataset: Dataset) -> tuple[str, str]:
    return str(dataset.SOPClassUID), str(dataset.SOPInstanceUID)


def config(port: int) -> str:
    return (
        "[listener]\narchive = true\nquiet_time_s = 600\n"
        f'[[peers]]\nae_title = "MODALITY"\nhost = "127.0.0.1"\nport = {port}\n'
        '[[peers]]\nae_title = "PORTLESS"\nhost = "127.0.0.1"\n'
    )


class Site:
    """The receiving process and the index, each of which can be killed and started again."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.requester_port = free_port()
        self.engine: Engine = open_database(database_path(data))
        migrate(self.engine)
        self.scp: Running = start_scp(data, config=config(self.requester_port))
        self.index: Process | None = None

    def restart_scp(self) -> None:
        self.scp.process.kill()
        self.scp = start_scp(self.data, config=config(self.requester_port))

    def start_index(self) -> None:
        command: list[str | Path] = [*_module("assemble", "commit"), "--data", self.data]
        self.index = Process([*command, "--config", self.data / "hilum.toml"], log=self.data / "index.log")

    def rows(self, table: sa.Table) -> list[sa.Row[tuple[object, ...]]]:
        with reading(self.engine) as connection:
            return list(connection.execute(sa.select(table)))

    def states(self) -> list[object]:
        return [row.state for row in self.rows(commitment_requests)]

    def stop(self) -> None:
        self.scp.process.stop()
        if self.index is not None:
            self.index.stop()
        self.engine.dispose()


def _module(*roles: str) -> list[str]:
    return [executable, "-m", "hilum_listener", *roles]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path)
    yield found
    found.stop()


def test_a_procedure_step_ends_the_wait_and_its_state_survives_kill_9(site: Site) -> None:
    uid = derive_uid("step", "1")
    images = [image("1"), image("2")]
    with associated(site.scp.port, [MPPS]) as modality:
        status, _ = modality.send_n_create(step_begins(), MPPS, uid)
        assert status.Status == 0x0000
    site.restart_scp()
    with associated(site.scp.port, [MPPS, CR]) as modality:
        assert modality.send_n_create(step_begins(), MPPS, uid)[0].Status == 0x0111
        for one in images:
            hold_reactor(modality)
            assert modality.send_c_store(one).Status == 0x0000
        assert modality.send_n_set(step_ends(images), MPPS, derive_uid("step", "other"))[0].Status == 0x0112
        assert modality.send_n_set(step_ends(images), MPPS, uid)[0].Status == 0x0000
    site.restart_scp()
    with associated(site.scp.port, [MPPS]) as modality:
        again, _ = modality.send_n_set(step_ends(images[:1]), MPPS, uid)
        assert (again.Status, again.ErrorID) == (0x0110, 0xA710)
    site.start_index()
    wait_until(lambda: len(site.rows(revisions)) == 1, timeout_s=60, what="a complete study")
    (row,) = site.rows(revisions)
    assert (row.instance_count, row.reason) == (2, "the procedure step is completed, its 2 images are all here")


def test_a_step_without_a_uid_is_given_one(site: Site) -> None:
    with associated(site.scp.port, [MPPS]) as modality:
        status, _ = modality.send_n_create(step_begins(), MPPS)
        assert status.Status == 0x0000


def test_a_notification_completes_the_study_that_it_lists(site: Site) -> None:
    site.start_index()
    with associated(site.scp.port, [AVAILABILITY, CR]) as pacs:
        hold_reactor(pacs)
        assert pacs.send_c_store(image()).Status == 0x0000
        status, _ = pacs.send_n_create(available([image()]), AVAILABILITY, derive_uid("notice", "1"))
        assert status.Status == 0x0000
    wait_until(lambda: len(site.rows(revisions)) == 1, timeout_s=60, what="a complete study")
    assert site.rows(revisions)[0].reason == "an availability notification came, its one image is here"


def test_the_report_comes_on_the_association_that_asked_while_it_is_open_and_stores(site: Site) -> None:
    site.start_index()
    reports = Reports()
    with associated(site.scp.port, [COMMITMENT, CR], calling="PORTLESS", reports=reports) as modality:
        hold_reactor(modality)
        assert modality.send_c_store(image("1")).Status == 0x0000
        hold_reactor(modality)
        assert ask(modality, "t", [reference(image("1")), (CR, "1.2.3.4")]) == 0x0000
        wait_until(lambda: bool(reports.received), timeout_s=60, what="a report")
        hold_reactor(modality)
        assert modality.send_c_store(image("2")).Status == 0x0000
        wait_until(lambda: site.states() == ["delivered"], timeout_s=30, what="delivery")
    (report,) = reports.received
    assert report.TransactionUID == derive_uid("transaction", "t")
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == [image("1").SOPInstanceUID]
    assert [(i.ReferencedSOPInstanceUID, i.FailureReason) for i in report.FailedSOPSequence] == [("1.2.3.4", 0x0112)]
    assert [row.sop_instance_uid for row in site.rows(commitments)] == [image("1").SOPInstanceUID]


def test_the_report_is_delivered_once_though_both_processes_are_killed_in_between_and_the_requester_is_away(
    site: Site,
) -> None:
    with associated(site.scp.port, [COMMITMENT, CR]) as modality:
        hold_reactor(modality)
        assert modality.send_c_store(image()).Status == 0x0000
        hold_reactor(modality)
        assert ask(modality, "t", [reference(image())]) == 0x0000
        site.restart_scp()
    site.start_index()
    wait_until(lambda: [r.attempts for r in site.rows(commitment_requests)] == [1], timeout_s=60, what="an attempt")
    assert site.index is not None
    site.index.kill()
    reports = Reports(answers=[0x0110])  # and then it fails once
    with Requester(reports, port=site.requester_port):
        site.start_index()
        wait_until(lambda: site.states() == ["delivered"], timeout_s=150, what="delivery")
    assert reports.transactions() == [derive_uid("transaction", "t")] * 2, "one refused, one acknowledged"
    assert "FailedSOPSequence" not in reports.received[-1]
    (row,) = site.rows(commitment_requests)
    assert row.reason == ""


def test_a_request_that_is_too_large_is_refused_and_one_without_measure_ends_its_association(site: Site) -> None:
    def padded(size: int) -> Dataset:
        dataset = step_begins()
        dataset.add_new(0x00091010, "OB", bytes(size))
        return dataset

    with associated(site.scp.port, [MPPS]) as modality:
        hold_reactor(modality)
        assert modality.send_n_create(padded(9 << 20), MPPS, derive_uid("step", "large"))[0].Status == 0x0213
        hold_reactor(modality)
        assert modality.send_n_create(step_begins(), MPPS, derive_uid("step", "small"))[0].Status == 0x0000
    with associated(site.scp.port, [MPPS]) as modality:
        hold_reactor(modality)
        answer, _ = modality.send_n_create(padded(40 << 20), MPPS, derive_uid("step", "endless"))
        assert "Status" not in answer
        wait_until(lambda: not modality.is_established, timeout_s=20, what="the association's end")
    with associated(site.scp.port, [MPPS]) as modality:
        hold_reactor(modality)
        assert modality.send_n_create(step_begins(), MPPS, derive_uid("step", "small"))[0].Status == 0x0111
