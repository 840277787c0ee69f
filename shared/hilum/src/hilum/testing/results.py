"""Results for tests: every field filled, each replaceable."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from hilum.adapters.sql.tables import studies
from hilum.domain.findings import Answer, Dropped, Finding, Findings
from hilum.domain.geometry import PixelBox
from hilum.domain.identity import Patient, derive_uid, study_key
from hilum.domain.inference import ImageReference, ModelIdentity, Threshold
from hilum.domain.results import Result, state_of
from hilum.domain.study import StudyHeader

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.7.3"

NANO = ModelIdentity(
    name="MedMO-Nano",
    version="1.0",
    digest="ab" * 32,
    simulation=True,
    disclaimer="MedMO-Nano, trained on generated images, not for patients.",
    thresholds={"Nodule": Threshold(0.3, 0.8), "Pneumothorax": Threshold(0.2, 0.5)},
)

CREATED = datetime(2026, 11, 24, 14, 3, 22, tzinfo=UTC)


def image(number: int = 1, *, sop_class: str = DX, frame: int = 1, frames: int = 1, rows: int = 3000) -> ImageReference:
    """Image `number` of the sample study, `rows` x 2500 pixels."""
    return ImageReference(
        series_instance_uid=derive_uid("test-series", "1"),
        sop_instance_uid=derive_uid("test-image", str(number)),
        sop_class_uid=sop_class,
        uri=f"spool:{number:02x}/{number:016x}-{number:016x}.dcm",
        frame=frame,
        frames=frames,
        rows=rows,
        columns=2500,
    )


def finding(label: str, number: int, *, on: ImageReference, probability: float = 0.91, urgent: bool = False) -> Finding:
    """A finding with a box that the 0-1000 grid can give."""
    box = PixelBox(on.columns * 0.156, on.rows * 0.516, on.columns * 0.231, on.rows * 0.607)
    return Finding(label, box, on, probability, urgent, derive_uid("test-finding", label, str(number)))


def findings(
    found: Sequence[Finding],
    *,
    images: Sequence[ImageReference],
    model: ModelIdentity = NANO,
    revision: int = 1,
    report: str = "",
    answers: Sequence[Answer] = (),
    ungrounded: Sequence[str] = (),
    dropped: Sequence[Dropped] = (),
    study_instance_uid: str = "",
) -> Findings:
    study = study_instance_uid or derive_uid("test-study", "1")
    return Findings(
        request_id=derive_uid("request", study)[5:37].ljust(32, "0"),
        study_instance_uid=study,
        revision=revision,
        model=model,
        prompt_digest="cd" * 32,
        images=tuple(images),
        findings=tuple(found),
        dropped=tuple(dropped),
        report=report,
        ungrounded=tuple(ungrounded),
        answers=tuple(answers),
        produced_at=CREATED,
        timings_s=(("decode", 0.1), ("model", 0.8)),
    )


HEADER = StudyHeader(
    study_instance_uid=derive_uid("test-study", "1"),
    patient=Patient("4711", "HOSP", "Doe^Jane^Q^Dr^PhD", "19700131", "F"),
    accession_number="A100",
    accession_issuer="HOSP",
    study_id="S1",
    study_date="20261124",
    study_time="150000",
    study_description="Chest PA and lateral",
    referring_physician="House^Gregory",
    placer_order_number="P-1",
    filler_order_number="F-1",
    procedure_code="36643-5",
    procedure_meaning="XR Chest 2 Views",
    procedure_scheme="LN",
)


def result(
    of: Findings,
    *,
    header: StudyHeader = HEADER,
    created_at: datetime = CREATED,
    time_zone: str = "Europe/Berlin",
    predecessor: tuple[str, str] = ("", ""),
) -> Result:
    """`predecessor`: SOP and series instance UID of the SR that it supersedes."""
    return Result(
        header=header,
        findings=of,
        state=state_of(of),
        created_at=created_at,
        time_zone=time_zone,
        institution="Sample Hospital",
        predecessor_sr_uid=predecessor[0],
        predecessor_series_uid=predecessor[1],
    )


def index_study(connection: Connection, *, at: datetime, header: StudyHeader = HEADER) -> None:
    """Writes a study as assemble would: one complete revision, its last image received `at`."""
    connection.execute(
        sa.insert(studies).values(
            study_instance_uid=header.study_instance_uid,
            study_key=study_key(header.study_instance_uid),
            revision=1,
            receiving=False,
            first_received_at=at,
            last_received_at=at,
            order_priority="routine",
            description="Chest",
            modalities="DX",
            header=asdict(header),
            conflict="",
            calling_ae="TEST",
        )
    )
