"""An archive reached by DIMSE: C-FIND, C-GET and C-MOVE, Study Root (PS3.4 C), as SCU."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import _config, build_role, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import time
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from hilum.adapters.dicom.implementation import own_entity
from hilum.adapters.dicom.requests import hold_reactor
from hilum.domain.errors import Reject, Retry
from hilum.runtime.config import DicomArchive
from hilum_listener.handlers.archive import Arrivals, EarlierStudy, Fetched, Held, Outcome

_SYNTAXES: Sequence[Sequence[UID]] = (
    (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
    (JPEGLosslessSV1,),
    (JPEG2000Lossless,),
    (JPEGLSLossless,),
    (RLELossless,),
    (JPEGBaseline8Bit,),
    (JPEG2000,),
    (JPEGExtended12Bit,),
    (JPEGLSNearLossless,),
)
"""One presentation context each, so that the archive can send what it holds without transcoding."""
_CONTEXTS = 128  # PS3.8 9.3.2: odd ids from 1 to 255
_PENDING = (0xFF00, 0xFF01)
_CANCELLED, _OUT_OF_RESOURCES = 0xFE00, (0xA700, 0xA701)
_SUB_OPERATIONS_FAILED = (0xB000, 0xA702)
"""Some or all of them: what came is counted here, not taken from the archive's word."""
_MOVE_DESTINATION_UNKNOWN = 0xA801
_PIECE_BYTES = 1 << 20


def receive_into_files(folder: Path) -> None:
    """From now on what C-GET brings goes to files of this folder while it arrives, not to memory.

    Of the whole process: it must receive nothing else with pynetdicom.
    """
    tempfile.tempdir = str(folder)
    _config.STORE_RECV_CHUNKED_DATASET = True


class DimseArchive:
    """One association for each request; an archive is asked seldom."""

    def __init__(self, archive: DicomArchive, *, calling_ae: str) -> None:
        self._archive = archive
        self._calling_ae = calling_ae

    def instances(self, study_instance_uid: str) -> Sequence[Held]:
        query = _query("IMAGE", StudyInstanceUID=study_instance_uid)
        query.SeriesInstanceUID = query.SOPInstanceUID = query.SOPClassUID = ""
        # Study Root without relational queries (PS3.4 C.4.1.2.2): the levels above must be unique keys
        found = []
        for series in self._series(study_instance_uid):
            query.SeriesInstanceUID = series
            found += [
                Held(
                    str(row.get("SeriesInstanceUID", series)), str(row.SOPInstanceUID), str(row.get("SOPClassUID", ""))
                )
                for row in self._find(query)
                if row.get("SOPInstanceUID")
            ]
        return found

    def _series(self, study_instance_uid: str) -> Sequence[str]:
        query = _query("SERIES", StudyInstanceUID=study_instance_uid)
        query.SeriesInstanceUID = ""
        return [str(row.SeriesInstanceUID) for row in self._find(query) if row.get("SeriesInstanceUID")]

    def earlier(self, patient_id: str, issuer: str) -> Sequence[EarlierStudy]:
        if not patient_id:
            return ()
        if any(character in patient_id for character in "*?\\"):
            raise Reject("the patient's identifier has characters that a query takes for wildcards")
        query = _query("STUDY", PatientID=patient_id, IssuerOfPatientID=issuer)
        query.StudyInstanceUID = query.StudyDate = query.ModalitiesInStudy = query.NumberOfStudyRelatedInstances = ""
        found = []
        for row in self._find(query):
            stated = str(row.get("IssuerOfPatientID", "") or "")
            if str(row.get("PatientID", "")) != patient_id or (issuer and stated not in ("", issuer)):
                continue  # archives may match more loosely than they should
            if uid := str(row.get("StudyInstanceUID", "")):
                found.append(self._study(uid, row))
        return found

    def _study(self, uid: str, row: Dataset) -> EarlierStudy:
        series = _query("SERIES", StudyInstanceUID=uid)
        series.SeriesInstanceUID = series.Modality = series.BodyPartExamined = ""
        rows = list(self._find(series))
        modalities = {str(value) for value in _values(row.get("ModalitiesInStudy"))}
        modalities |= {str(r.Modality) for r in rows if r.get("Modality")}
        parts = {str(r.BodyPartExamined).strip().upper() for r in rows if r.get("BodyPartExamined")}
        count = row.get("NumberOfStudyRelatedInstances")
        return EarlierStudy(
            study_instance_uid=uid,
            study_date=_date(str(row.get("StudyDate", "") or "")),
            modalities=frozenset(modalities),
            body_parts=frozenset(parts),
            instances=int(count) if count not in (None, "") else len(self.instances(uid)),
        )

    def fetch(self, study_instance_uid: str, wanted: Sequence[Held], arrivals: Arrivals) -> Outcome:
        completed = failed = 0
        for series in dict.fromkeys(item.series_instance_uid for item in wanted):
            if arrivals.full:
                break
            items = [item for item in wanted if item.series_instance_uid == series]
            if self._archive.retrieve == "c-move":
                outcome = self._move(study_instance_uid, series, items)
            else:
                outcome = self._get(study_instance_uid, series, items, arrivals)
            completed, failed = completed + outcome.completed, failed + outcome.failed
        return Outcome(completed, failed)

    def _get(self, study: str, series: str, items: Sequence[Held], arrivals: Arrivals) -> Outcome:
        query = _images(study, series, items)
        classes = list(dict.fromkeys(item.sop_class_uid for item in items if item.sop_class_uid))
        stored: set[str] = set()

        def keep(event: evt.Event) -> int:
            request = event.request
            assert isinstance(request, C_STORE)
            uid = str(request.AffectedSOPInstanceUID)
            with _pieces(event) as pieces:
                syntax = str(event.context.transfer_syntax)
                status = arrivals.take(Fetched(str(request.AffectedSOPClassUID), uid, syntax, pieces))
            if status == 0:
                stored.add(uid)
            return status

        contexts = [build_context(StudyRootQueryRetrieveInformationModelGet), *_storage(classes)]
        with self._association(contexts, classes, keep) as association:
            hold_reactor(association)
            for status, _ in association.send_c_get(query, StudyRootQueryRetrieveInformationModelGet):
                self._check(status, "C-GET")
                if arrivals.full:
                    association.abort()
                    break
        wanted = {item.sop_instance_uid for item in items}
        return Outcome(len(stored & wanted), len(wanted - stored))

    def _move(self, study: str, series: str, items: Sequence[Held]) -> Outcome:
        """To Hilum's own AE title, which the archive knows the address of."""
        contexts = [build_context(StudyRootQueryRetrieveInformationModelMove)]
        completed = 0
        with self._association(contexts) as association:
            hold_reactor(association)
            query, model = _images(study, series, items), StudyRootQueryRetrieveInformationModelMove
            for status, _ in association.send_c_move(query, self._calling_ae, model):
                if status.get("Status") == _MOVE_DESTINATION_UNKNOWN:
                    raise Reject(f"archive {self._archive.name}: it does not know where {self._calling_ae} is")
                self._check(status, "C-MOVE")
                completed = int(status.get("NumberOfCompletedSuboperations", None) or completed)
        return Outcome(completed, len(items) - completed)

    def _find(self, query: Dataset) -> Iterator[Dataset]:
        contexts = [build_context(StudyRootQueryRetrieveInformationModelFind)]
        with self._association(contexts) as association:
            hold_reactor(association)
            for status, row in association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind):
                self._check(status, "C-FIND")
                if row is not None and status.Status in _PENDING:
                    yield row

    def _check(self, status: Dataset, what: str) -> None:
        name = self._archive.name
        if "Status" not in status:
            raise Retry(f"archive {name}: no answer to {what}")
        code = int(status.Status)
        if code in (0, *_SUB_OPERATIONS_FAILED, *_PENDING):
            return
        if code in _OUT_OF_RESOURCES or code == _CANCELLED:
            raise Retry(f"archive {name}: {what} answered {code:04X}")
        raise Reject(f"archive {name}: {what} answered {code:04X}")

    @contextlib.contextmanager
    def _association(
        self, contexts: Sequence[PresentationContext], storage: Sequence[str] = (), keep: Any = None
    ) -> Iterator[Association]:
        archive = self._archive
        entity = own_entity(self._calling_ae)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = archive.timeout_s
        entity.connection_timeout = archive.timeout_s
        handlers: list[Any] = [(evt.EVT_C_STORE, keep)] if keep else []
        try:
            association = entity.associate(
                archive.host,
                archive.port,
                contexts=list(contexts),
                ae_title=archive.ae_title,
                ext_neg=[build_role(UID(name), scp_role=True) for name in storage],
                evt_handlers=handlers,
            )
        except (OSError, RuntimeError) as error:
            raise Retry(f"archive {archive.name}: no connection ({type(error).__name__})") from error
        if not association.is_established:
            raise Retry(f"archive {archive.name}: no association")
        try:
            model = contexts[0].abstract_syntax
            if not any(c.abstract_syntax == model for c in association.accepted_contexts):
                raise Reject(f"archive {archive.name}: it does not offer {UID(str(model)).name}")
            yield association
        finally:
            if association.is_established:
                association.release()


def _query(level: str, **keys: str) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    for name, value in keys.items():
        setattr(query, name, value)
    return query


def _images(study: str, series: str, items: Sequence[Held]) -> Dataset:
    query = _query("IMAGE", StudyInstanceUID=study, SeriesInstanceUID=series)
    query.SOPInstanceUID = [item.sop_instance_uid for item in items]
    return query


@contextlib.contextmanager
def _pieces(event: evt.Event) -> Iterator[Iterator[bytes | memoryview]]:
    """The data set that a C-STORE of the archive brought, from memory or from the file that it was received into."""
    file = getattr(event.request, "_dataset_file", None)
    if file is None:
        yield iter((event.encoded_dataset(include_meta=False),))
        return
    try:
        file.close()
        with open(file.name, "rb") as received:
            head = received.read(144)  # PS3.10 7.1: the length of the file meta information is its first element
            received.seek(144 + int.from_bytes(head[140:144], "little"))
            yield iter(lambda: received.read(_PIECE_BYTES), b"")
    finally:
        Path(file.name).unlink(missing_ok=True)


def _storage(classes: Sequence[str]) -> list[PresentationContext]:
    """Contexts for what is about to come, as many as fit beside the query's own."""
    pairs = [(name, syntaxes) for syntaxes in _SYNTAXES for name in classes]
    return [build_context(UID(name), list(syntaxes)) for name, syntaxes in pairs[: _CONTEXTS - 1]]


def _values(value: Any) -> Sequence[Any]:
    if value is None or value == "":
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _date(text: str) -> date | None:
    try:
        return datetime.strptime(text.replace(".", ""), "%Y%m%d").date()  # noqa: DTZ007  # a DICOM date has no zone
    except ValueError:
        return None
