"""A ledger with one study of each kind that a reader can meet, for pages and commands that show studies."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Connection

from hilum.adapters.sql import tables
from hilum.domain.findings import Answer, Dropped
from hilum.domain.identity import Patient
from hilum.domain.inference import Lane
from hilum.domain.results import AiState, DeliveryState, Format
from hilum.domain.study import OrderPriority
from hilum.testing.seeding import Said, SeededStudy

Draw = Callable[[int], NDArray[np.uint16]]
BYTES = {Format.SR: b"an SR", Format.FHIR: b'{"resourceType": "Bundle"}', Format.ORU: b"MSH|^~\\&|"}
HOSTILE = "<script>document.title='owned'</script>^<img src=x onerror=alert(1)>"


def gradient(seed: int) -> NDArray[np.uint16]:
    """A 12-bit picture of 600 rows and 500 columns with two dark fields, different for each seed."""
    rows, columns = np.mgrid[0:600, 0:500]
    lungs = np.zeros((600, 500))
    for centre in (150, 350):
        lungs += np.exp(-((((columns - centre) / 75) ** 2 + ((rows - 300 - seed) / 190) ** 2) ** 2))
    grain = np.random.default_rng(seed).normal(0, 40, (600, 500))
    return np.clip(3000 - 2100 * lungs + grain, 0, 4095).astype(np.uint16)


def fill(connection: Connection, data: Path, *, now: datetime, draw: Draw = gradient) -> dict[str, str]:
    """Writes the studies and their files below `data`; the study UIDs by name."""
    made = [
        _stat(connection, data, now, draw),
        _pneumothorax(connection, data, now, draw),
        _normal(connection, data, now, draw),
        _overdue(connection, data, now, draw),
        _reopened(connection, data, now, draw),
        _computed_tomography(connection, now),
        _failed(connection, data, now, draw),
        _hostile(connection, data, now, draw),
        _cine(connection, data, now, draw),
        *_moving(connection, data, now, draw),
    ]
    _trouble(connection, now)
    return {name: study.uid for name, study in made}


def _ago(now: datetime, minutes: float) -> datetime:
    return now - timedelta(minutes=minutes)


def _run(study: SeededStudy, lane: Lane) -> None:
    study.complete()
    study.route(lane, reason="rule 'chest radiograph'")
    study.job("done")


def _box(picture: NDArray[np.uint16], left: float, top: float, right: float, bottom: float) -> tuple[float, ...]:
    rows, columns = picture.shape[-2:]
    return tuple(round(edge, 3) for edge in (left * columns, top * rows, right * columns, bottom * rows))


def _said(label: str, picture: NDArray[np.uint16], place: tuple[float, float, float, float], p: float) -> Said:
    left, top, right, bottom = _box(picture, *place)
    return Said(label, (left, top, right, bottom), p)


def _sent(study: SeededStudy, key: str, revision: int = 1) -> None:
    for destination, format, words in (
        ("pacs", Format.SR, "0x0000"),
        ("fhir", Format.FHIR, "200 OK"),
        ("ris", Format.ORU, "MSA|AA"),
    ):
        study.deliver(
            key,
            destination,
            format,
            DeliveryState.ACCEPTED,
            revision=revision,
            tries=[("accepted", words)],
            seconds=8.1,
        )


def _stat(connection: Connection, data: Path, now: datetime, draw: Draw) -> tuple[str, SeededStudy]:
    study = SeededStudy(
        connection, "stat", start=_ago(now, 4), priority=OrderPriority.STAT, description="Chest AP bedside"
    )
    study.image(draw(1), data, view="AP")
    _run(study, Lane.STAT)
    _sent(study, study.result([], report="No acute abnormality of the chest.", bytes_of=BYTES))
    return "stat", study


def _pneumothorax(connection: Connection, data: Path, now: datetime, draw: Draw) -> tuple[str, SeededStudy]:
    patient = Patient("4711-0815", "", "Buc^Jérôme", "19580312", "M")
    study = SeededStudy(connection, "pneumothorax", start=_ago(now, 12), patient=patient)
    first = draw(2)
    study.image(first, data, view="PA")
    study.image(draw(3), data, view="LL")
    _run(study, Lane.ROUTINE)
    said = [
        _said("Pneumothorax", first, (0.58, 0.14, 0.86, 0.38), 0.93),
        _said("Nodule", first, (0.22, 0.42, 0.30, 0.49), 0.71),
        _said("Fracture", first, (0.12, 0.55, 0.22, 0.61), 0.44),
    ]
    report = "There is a pneumothorax on the left. A nodule projects over the right mid zone.\nThe heart is enlarged."
    key = study.result(
        said,
        report=report,
        ungrounded=("Cardiomegaly",),
        dropped=(
            Dropped("Nodule", "probability 0.21 is below the threshold 0.30"),
            Dropped("Effusion", "the box reaches outside the image"),
        ),
        answers=(Answer("Is there free air?", "Yes."),),
        bytes_of=BYTES,
    )
    study.deliver(
        key, "pacs", Format.SR, DeliveryState.ACCEPTED, tries=[("retry", "no answer"), ("accepted", "0x0000")]
    )
    study.deliver(
        key, "fhir", Format.FHIR, DeliveryState.PARKED, reason="422: unknown patient", tries=[("parked", "422")]
    )
    study.deliver(
        key, "ris", Format.ORU, DeliveryState.QUEUED, reason="connection refused", tries=[("retry", "refused")] * 3
    )
    return "pneumothorax", study


def _normal(connection: Connection, data: Path, now: datetime, draw: Draw) -> tuple[str, SeededStudy]:
    patient = Patient("10023", "", "Yamada^Tarou=山田^太郎=やまだ^たろう", "19710404", "M")
    study = SeededStudy(connection, "normal", start=_ago(now, 31), patient=patient, modality="CR")
    study.image(draw(4), data)
    _run(study, Lane.ROUTINE)
    _sent(study, study.result([], report="The lungs are clear.", bytes_of=BYTES))
    return "normal", study


def _overdue(connection: Connection, data: Path, now: datetime, draw: Draw) -> tuple[str, SeededStudy]:
    study = SeededStudy(connection, "overdue", start=_ago(now, 275), description="Chest PA, follow-up")
    picture = draw(5)
    study.image(picture, data)
    _run(study, Lane.ROUTINE)
    _sent(study, study.result([_said("Effusion", picture, (0.56, 0.62, 0.9, 0.86), 0.66)], bytes_of=BYTES))
    return "overdue", study


def _reopened(connection: Connection, data: Path, now: datetime, draw: Draw) -> tuple[str, SeededStudy]:
    study = SeededStudy(
        connection,
        "reopened",
        start=_ago(now, 22),
        priority=OrderPriority.URGENT,
        conflict="two values of Patient's Sex",
    )
    picture = draw(6)
    study.image(picture, data)
    _run(study, Lane.URGENT)
    _sent(study, study.result([_said("Consolidation", picture, (0.2, 0.5, 0.42, 0.74), 0.88)], bytes_of=BYTES))
    study.image(draw(7), data, view="LL", seconds=1200)
    study.reopen(seconds=1200)
    study.complete(2, seconds=1205)
    study.route(Lane.URGENT, 2, reason="rule 'chest radiograph'", seconds=1205.1)
    study.job("queued", 2, attempts=1, error="the model is away", seconds=1205.2)
    return "reopened", study


def _computed_tomography(connection: Connection, now: datetime) -> tuple[str, SeededStudy]:
    study = SeededStudy(connection, "ct", start=_ago(now, 44), modality="CT", description="CT thorax with contrast")
    study.image(np.zeros((512, 512), np.uint16), view="")
    study.complete()
    reason = "modality CT is not CR/DX (rule 'chest radiograph')"
    study.route(None, reason=reason)
    study.end(AiState.NOT_APPLICABLE, reason, seconds=5.2)
    return "ct", study


def _failed(connection: Connection, data: Path, now: datetime, draw: Draw) -> tuple[str, SeededStudy]:
    study = SeededStudy(connection, "failed", start=_ago(now, 8), priority=OrderPriority.URGENT)
    study.image(draw(8))
    study.complete()
    study.route(Lane.URGENT)
    study.job("failed", attempts=3, error="compressed frame is cut off")
    study.end(AiState.FAILED, "3 attempts failed; the last: compressed frame is cut off", seconds=14)
    return "failed", study


def _hostile(connection: Connection, data: Path, now: datetime, draw: Draw) -> tuple[str, SeededStudy]:
    patient = Patient("'\"><b>x</b>", "", HOSTILE, "", "")
    study = SeededStudy(connection, "hostile", start=_ago(now, 17), patient=patient, description="{{ 7*7 }} \u202eCXR")
    picture = draw(9)
    study.image(picture, data)
    _run(study, Lane.ROUTINE)
    key = study.result(
        [_said("<b>Nodule</b>", picture, (0.6, 0.3, 0.7, 0.38), 0.5)],
        report="</div><script>document.title='owned'</script>",
        bytes_of=BYTES,
    )
    study.deliver(key, "pacs", Format.SR, DeliveryState.WITHHELD, reason="not a simulation: gets no simulator's result")
    return "hostile", study


def _cine(connection: Connection, data: Path, now: datetime, draw: Draw) -> tuple[str, SeededStudy]:
    study = SeededStudy(connection, "cine", start=_ago(now, 52), description="Chest dynamic, 5 frames")
    frames = np.stack([draw(10 + n) for n in range(5)])
    study.image(frames, data)
    _run(study, Lane.ROUTINE)
    _sent(study, study.result([_said("Nodule", frames, (0.3, 0.3, 0.38, 0.37), 0.64)], bytes_of=BYTES))
    return "cine", study


def _moving(connection: Connection, data: Path, now: datetime, draw: Draw) -> list[tuple[str, SeededStudy]]:
    receiving = SeededStudy(connection, "receiving", start=now - timedelta(seconds=3), priority=OrderPriority.STAT)
    receiving.image(draw(15), data)
    waiting = SeededStudy(connection, "waiting", start=now - timedelta(seconds=14))
    waiting.image(draw(16), data)
    waiting.complete()
    waiting.route(Lane.ROUTINE, reason="rule 'chest radiograph'")
    running = SeededStudy(connection, "running", start=now - timedelta(seconds=9))
    running.image(draw(17), data)
    running.complete()
    running.route(Lane.ROUTINE, reason="rule 'chest radiograph'")
    running.job("claimed")
    return [("receiving", receiving), ("waiting", waiting), ("running", running)]


def _trouble(connection: Connection, now: datetime) -> None:
    kept = {"sop_instance_uid": "", "study_instance_uid": "", "calling_ae": "XRAY2", "received_at": _ago(now, 30)}
    connection.execute(
        sa.insert(tables.quarantine).values(**kept, uri="spool:q/1", reason="no Study Instance UID in the header")
    )
    letter = {"consumer_group": "worker", "topic": "inference.routine", "offset": 7, "key": "0" * 16, "payload": "{}"}
    connection.execute(
        sa.insert(tables.dead_letters).values(**letter, reason="unknown schema version", created_at=_ago(now, 29))
    )
