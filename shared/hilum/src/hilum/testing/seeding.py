"""A ledger filled by hand: each step of a study is one call, so that a test states just what happened.

The bytes of encodings are what the caller gives; nothing here stands in for a service.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian
from sqlalchemy import Connection

from hilum.adapters.sql import tables
from hilum.contracts.messages import FindingsProduced, InferenceRequested
from hilum.domain.findings import Answer, Dropped, Finding, Findings
from hilum.domain.geometry import PixelBox
from hilum.domain.identity import Patient, derive_uid, digest_of, study_key
from hilum.domain.inference import ImageReference, InferenceRequest, Lane, ModelIdentity, Task, TaskKind, Threshold
from hilum.domain.results import AiState, DeliveryState, Format, describe, result_key, state_of
from hilum.domain.study import OrderPriority, StudyHeader

NANO = ModelIdentity(
    name="MedMO-Nano",
    version="1.0.0",
    digest=digest_of("weights of a test"),
    simulation=True,
    disclaimer="MedMO-Nano, trained on generated images, not for patients",
    thresholds={"Pneumothorax": Threshold(0.3, 0.6), "Nodule": Threshold(0.3, 0.9)},
    default_threshold=Threshold(report=0.3, urgent=0.85),
)


@dataclass(frozen=True, slots=True)
class Said:
    """One finding to seed; `box` is left, top, right, bottom in pixels of image number `image` (from 0)."""

    label: str
    box: tuple[float, float, float, float]
    probability: float
    image: int = 0


def picture_file(pixels: NDArray[np.uint16], *, study_uid: str, series_uid: str, sop_uid: str) -> bytes:
    """A DX image as a DICOM file. `pixels`: (rows, columns) or (frames, rows, columns), 12 bits, MONOCHROME2."""
    image = Dataset()
    image.SOPClassUID, image.SOPInstanceUID = DigitalXRayImageStorageForPresentation, sop_uid
    image.StudyInstanceUID, image.SeriesInstanceUID, image.Modality = study_uid, series_uid, "DX"
    image.Rows, image.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        image.NumberOfFrames = pixels.shape[0]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.WindowCenter, image.WindowWidth = 2048, 4096
    image.PixelData = pixels.astype("<u2").tobytes()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = BytesIO()
    image.save_as(file, enforce_file_format=True)
    return file.getvalue()


class SeededStudy:
    """One study whose ledger rows are written step by step. Times are offsets in seconds from `start`."""

    def __init__(
        self,
        connection: Connection,
        name: str,
        *,
        start: datetime,
        patient: Patient | None = None,
        priority: OrderPriority = OrderPriority.ROUTINE,
        modality: str = "DX",
        description: str = "Chest PA",
        accession: str = "",
        conflict: str = "",
    ) -> None:
        self._connection = connection
        self.start = start
        self.uid = derive_uid("seed", name)
        self.modality = modality
        self.images: list[ImageReference] = []
        self.header = StudyHeader(
            self.uid,
            patient or Patient(patient_id=f"P-{name}", name=f"Test^{name}", birth_date="19600229", sex="F"),
            accession_number=accession or f"A-{digest_of(name)[:6]}",
            study_date=start.strftime("%Y%m%d"),
            study_time=start.strftime("%H%M%S"),
            study_description=description,
        )
        self._add(
            tables.studies,
            study_key=study_key(self.uid),
            revision=0,
            receiving=True,
            first_received_at=start,
            last_received_at=start,
            order_priority=priority.value,
            description=description,
            modalities=modality,
            header=asdict(self.header),
            conflict=conflict,
            calling_ae="XRAY1",
        )

    def at(self, seconds: float) -> datetime:
        return self.start + timedelta(seconds=seconds)

    def image(
        self, pixels: NDArray[np.uint16], data: Path | None = None, *, view: str = "PA", seconds: float = 0
    ) -> str:
        """One more image; its file is written below `data`/spool when that is given. Returns its SOP Instance UID."""
        number = len(self.images) + 1
        series_uid = derive_uid("seed-series", self.uid)
        sop_uid = derive_uid("seed-image", self.uid, str(number))
        content = picture_file(pixels, study_uid=self.uid, series_uid=series_uid, sop_uid=sop_uid)
        digest = hashlib.sha256(content).hexdigest()
        name = digest_of("instance", sop_uid)
        uri = f"spool:{name[:2]}/{name[:32]}-{digest[:32]}.dcm"
        if data is not None:
            path = data / "spool" / uri.removeprefix("spool:")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        rows, columns = pixels.shape[-2:]
        frames = pixels.shape[0] if pixels.ndim == 3 else 1
        kind = str(DigitalXRayImageStorageForPresentation)
        image = ImageReference(series_uid, sop_uid, kind, uri, (frames + 1) // 2, frames, rows, columns)
        self.images.append(image)
        self._index(image, digest, len(content), view, self.at(seconds))
        return sop_uid

    def _index(self, image: ImageReference, digest: str, size: int, view: str, received_at: datetime) -> None:
        number = len(self.images)
        if number == 1:
            self._add(
                tables.series,
                series_instance_uid=image.series_instance_uid,
                modality=self.modality,
                body_part="CHEST",
                description="Chest",
            )
        self._add(
            tables.instances,
            sop_instance_uid=image.sop_instance_uid,
            series_instance_uid=image.series_instance_uid,
            sop_class_uid=image.sop_class_uid,
            transfer_syntax_uid=str(ExplicitVRLittleEndian),
            uri=image.uri,
            sha256=digest,
            size_bytes=size,
            rows=image.rows,
            columns=image.columns,
            frames=image.frames,
            instance_number=number,
            view_position=view,
            photometric="MONOCHROME2",
            presentation_intent="FOR PRESENTATION",
            received_at=received_at,
        )

    def complete(self, revision: int = 1, *, seconds: float = 5.0) -> None:
        """The revision is complete at `seconds`; its last image came 5 s before."""
        self._add(
            tables.revisions,
            revision=revision,
            instance_count=max(len(self.images), 1),
            last_received_at=self.at(seconds - 5),
            completed_at=self.at(seconds),
            reason="no image for 5 s",
        )
        self._update(tables.studies, revision=revision, receiving=False, last_received_at=self.at(seconds - 5))

    def reopen(self, *, seconds: float) -> None:
        """A late image arrives."""
        self._update(tables.studies, receiving=True, last_received_at=self.at(seconds))

    def route(self, lane: Lane | None, revision: int = 1, *, reason: str = "", seconds: float = 5.1) -> None:
        self._add(
            tables.routes,
            revision=revision,
            lane=lane.value if lane else None,
            rule="chest radiograph" if lane else "",
            reason=reason,
            decided_at=self.at(seconds),
        )

    def job(self, state: str, revision: int = 1, *, attempts: int = 1, error: str = "", seconds: float = 5.2) -> None:
        tasks = (Task(TaskKind.LOCATE), Task(TaskKind.REPORT))
        request = InferenceRequest(
            self.uid,
            revision,
            Lane.ROUTINE,
            tasks,
            tuple(self.images),
            "chest radiograph",
            self.start,
            self.at(seconds),
        )
        self._add(
            tables.jobs,
            revision=revision,
            request_id=request.request_id,
            lane="routine",
            rank=2,
            payload=InferenceRequested.from_domain(request).model_dump(mode="json"),
            state=state,
            attempts=attempts,
            token=attempts,
            worker="worker-1" if attempts else "",
            last_error=error,
            due_at=self.at(seconds),
            enqueued_at=self.at(seconds),
            started_at=self.at(seconds + 0.1) if attempts else None,
            finished_at=self.at(seconds + 2.1) if state in ("done", "failed") else None,
        )

    def end(self, state: AiState, reason: str, revision: int = 1, *, seconds: float = 8.0) -> None:
        """The revision ends without a result."""
        self._add(
            tables.outcomes,
            revision=revision,
            state=state.value,
            reason=reason,
            result_key=None,
            ended_at=self.at(seconds),
        )

    def result(
        self,
        said: Sequence[Said] = (),
        revision: int = 1,
        *,
        report: str = "",
        ungrounded: tuple[str, ...] = (),
        dropped: tuple[Dropped, ...] = (),
        answers: tuple[Answer, ...] = (),
        bytes_of: Mapping[Format, bytes] | None = None,
        seconds: float = 8.0,
    ) -> str:
        """The revision ends with what the model said; returns the result key."""
        found = tuple(self._finding(item, n, revision) for n, item in enumerate(said))
        findings = Findings(
            request_id=digest_of("request", self.uid, str(revision))[:32],
            study_instance_uid=self.uid,
            revision=revision,
            model=NANO,
            prompt_digest=digest_of("prompt"),
            images=tuple(self.images),
            findings=found,
            dropped=dropped,
            report=report,
            ungrounded=ungrounded,
            answers=answers,
            produced_at=self.at(seconds - 0.1),
            timings_s=(("decode", 0.08), ("model", 1.92), ("queue", 0.1)),
        )
        state, key = state_of(findings), result_key(self.uid, revision, NANO.digest)
        self._add(
            tables.results,
            result_key=key,
            revision=revision,
            state=state.value,
            model_name=NANO.name,
            model_version=NANO.version,
            model_digest=NANO.digest,
            simulation=NANO.simulation,
            findings=FindingsProduced.from_domain(findings).model_dump(mode="json"),
            created_at=self.at(seconds),
        )
        self._add(
            tables.outcomes,
            revision=revision,
            state=state.value,
            reason=describe(findings),
            result_key=key,
            ended_at=self.at(seconds),
        )
        for format, content in (bytes_of or {}).items():
            values = {"result_key": key, "format": format.value, "identity": f"{key}-{format}", "content": content}
            digest = hashlib.sha256(content).hexdigest()
            self._connection.execute(sa.insert(tables.encodings).values(**values, sha256=digest))
        return key

    def deliver(
        self,
        key: str,
        destination: str,
        format: Format,
        state: DeliveryState,
        *,
        revision: int = 1,
        reason: str = "",
        tries: Sequence[tuple[str, str]] = (),
        seconds: float = 8.0,
    ) -> None:
        """A delivery with its attempts, each an outcome and the peer's words."""
        accepted = self.at(seconds + 0.4 * len(tries)) if state is DeliveryState.ACCEPTED else None
        row = self._add(
            tables.deliveries,
            result_key=key,
            revision=revision,
            destination=destination,
            format=format.value,
            state=state.value,
            attempts=len(tries),
            token=len(tries),
            due_at=self.at(seconds),
            reason=reason,
            created_at=self.at(seconds),
            accepted_at=accepted,
        )
        for number, (outcome, words) in enumerate(tries, start=1):
            values = {"attempt": number, "outcome": outcome, "words": words, "seconds": 0.31}
            started = self.at(seconds + 0.4 * (number - 1))
            self._connection.execute(
                sa.insert(tables.delivery_attempts).values(**values, delivery_id=row, started_at=started)
            )

    def _finding(self, said: Said, number: int, revision: int) -> Finding:
        urgent = said.probability >= NANO.threshold(said.label).urgent
        uid = derive_uid("finding", self.uid, str(revision), NANO.digest, str(number))
        return Finding(said.label, PixelBox(*said.box), self.images[said.image], said.probability, urgent, uid)

    def _add(self, table: sa.Table, **values: Any) -> Any:
        done = self._connection.execute(sa.insert(table).values(study_instance_uid=self.uid, **values))
        return done.inserted_primary_key[0] if done.inserted_primary_key else None

    def _update(self, table: sa.Table, **values: Any) -> None:
        self._connection.execute(sa.update(table).where(table.c.study_instance_uid == self.uid).values(**values))
