"""For tests: a modality's procedure steps, notifications and commitment requests, and what answers its reports."""

import ssl
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE, build_context, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]  # made at import time

from hilum.domain.identity import derive_uid
from hilum_listener.handlers.attributes import ServiceRequest
from hilum_listener.handlers.commitment import MODEL_INSTANCE

MPPS, AVAILABILITY = "1.2.840.10008.3.1.2.3.3", "1.2.840.10008.5.1.4.33"
COMMITMENT = str(StorageCommitmentPushModel)


def step_begins(study: str = "study", status: str = "IN PROGRESS") -> Dataset:
    """The data set of an N-CREATE for a step of the study that `hilum.testing.dicom_files` gives this name."""
    dataset = Dataset()
    scheduled = Dataset()
    scheduled.StudyInstanceUID = derive_uid("test-study", study)
    dataset.ScheduledStepAttributesSequence = [scheduled]
    dataset.PatientID = "T-1"
    dataset.PerformedProcedureStepStatus = status
    dataset.PerformedSeriesSequence = []
    return dataset


def step_ends(
    images: Iterable[Dataset], status: str = "COMPLETED", *, reason: tuple[str, str] | None = None
) -> Dataset:
    """The data set of an N-SET; `reason` is code value and scheme of a discontinuation."""
    dataset = Dataset()
    dataset.PerformedProcedureStepStatus = status
    series = Dataset()
    series.ReferencedImageSequence = [_reference(image) for image in images]
    dataset.PerformedSeriesSequence = [series]
    if reason:
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = *reason, "said Doe^Jane"
        dataset.PerformedProcedureStepDiscontinuationReasonCodeSequence = [code]
    return dataset


def available(images: Sequence[Dataset], *, study: str = "study", availability: str = "ONLINE") -> Dataset:
    """The data set of an instance availability notification."""
    dataset = Dataset()
    dataset.StudyInstanceUID = derive_uid("test-study", study)
    series = Dataset()
    series.ReferencedSOPSequence = [_reference(image) for image in images]
    for item in series.ReferencedSOPSequence:
        item.InstanceAvailability = availability
    dataset.ReferencedSeriesSequence = [series]
    return dataset


def asks_for(transaction: str, references: Iterable[tuple[str, str]]) -> Dataset:
    """The data set of an N-ACTION that asks for commitment."""
    dataset = Dataset()
    dataset.TransactionUID = derive_uid("transaction", transaction)
    dataset.ReferencedSOPSequence = [_item(sop_class, uid) for sop_class, uid in references]
    return dataset


def reports_on(
    transaction: str, committed: Iterable[tuple[str, str]], failed: Sequence[tuple[str, str, int]]
) -> Dataset:
    """The data set of an N-EVENT-REPORT of another system."""
    dataset = asks_for(transaction, committed)
    dataset.FailedSOPSequence = [_item(sop_class, uid) for sop_class, uid, _reason in failed]
    for item, (_class, _uid, reason) in zip(dataset.FailedSOPSequence, failed, strict=True):
        item.FailureReason = reason
    return dataset


def _reference(image: Dataset) -> Dataset:
    return _item(image.SOPClassUID, image.SOPInstanceUID)


def _item(sop_class: str, uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = UID(sop_class), UID(uid)
    return item


def service_request(
    dataset: Dataset | bytes,
    *,
    uid: str = "1.2.3",
    implicit: bool = False,
    calling: str = "MODALITY",
    over: str = "a-1",
) -> ServiceRequest:
    """As the transport hands it over."""
    content = dataset if isinstance(dataset, bytes) else encode(dataset, implicit, True) or b""
    syntax = "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1"
    return ServiceRequest("1.2", uid, syntax, content, calling, "127.0.0.1", over)


@dataclass
class Reports:
    """What a requester received. `answers` are the statuses of the next ones, then success."""

    answers: list[int] = field(default_factory=list)
    received: list[Dataset] = field(default_factory=list)

    def transactions(self) -> list[str]:
        return [str(report.TransactionUID) for report in self.received]

    def handle(self, event: evt.Event) -> tuple[int, None]:
        report = event.event_information
        self.received.append(report)
        return (self.answers.pop(0) if self.answers else 0x0000), None


class Requester:
    """A modality's or PACS's own port, where it takes reports; over TLS only with a context."""

    def __init__(
        self, reports: Reports, *, ae_title: str = "MODALITY", port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.reports = reports
        self._entity = AE(ae_title=ae_title)
        self._entity.require_called_aet = True
        self._entity.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
        handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, reports.handle)]
        self._server = self._entity.start_server(
            ("127.0.0.1", port), block=False, evt_handlers=handlers, ssl_context=tls
        )
        self.port = int(self._server.server_address[1])  # type: ignore[union-attr]

    def __enter__(self) -> "Requester":
        return self

    def __exit__(self, *_: object) -> None:
        self._entity.shutdown()


@contextmanager
def associated(
    port: int, sop_classes: Sequence[str], *, calling: str = "MODALITY", reports: Reports | None = None
) -> Iterator[Association]:
    """An association to Hilum for these SOP classes; `reports` takes what comes on it."""
    entity = AE(ae_title=calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, reports.handle)] if reports else []
    association = entity.associate(
        "127.0.0.1",
        port,
        contexts=[build_context(name) for name in sop_classes],
        ae_title="HILUM",
        evt_handlers=handlers,
    )
    assert association.is_established
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def ask(association: Association, transaction: str, references: Iterable[tuple[str, str]]) -> int:
    """Sends the N-ACTION; the status of its response."""
    status, _ = association.send_n_action(
        asks_for(transaction, references), 1, StorageCommitmentPushModel, MODEL_INSTANCE
    )
    return int(status.Status)
