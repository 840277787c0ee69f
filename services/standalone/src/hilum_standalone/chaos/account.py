"""Afterwards: what was acknowledged is there, each revision ended once, each destination has each effect once."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pydicom
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from hilum.adapters.folder import SHARED, FolderInstances
from hilum.adapters.sql.database import reading
from hilum.adapters.sql.tables import (
    dead_letters,
    deliveries,
    encodings,
    instances,
    jobs,
    outbox,
    outcomes,
    quarantine,
    results,
    revisions,
    studies,
)
from hilum.domain.errors import HilumError
from hilum.domain.results import AiState, DeliveryState, Format
from hilum_standalone.chaos.cluster import Cluster

_ENDED = {DeliveryState.ACCEPTED.value, DeliveryState.SUPERSEDED.value}
_OPEN_JOBS = ("queued", "claimed")


def quiet(engine: Engine, studies_sent: int) -> str:
    """What is still under way; empty when everything came to its end.

    Raises:
        Busy: the database is away.
    """
    with reading(engine) as connection:
        waits = {
            "studies unknown": studies_sent - _count(connection, studies),
            "studies being received": _count(connection, studies, studies.c.receiving),
            "revisions without an end": _count(connection, revisions) - _count(connection, outcomes),
            "jobs": _count(connection, jobs, jobs.c.state.in_(_OPEN_JOBS)),
            "messages in the outbox": _count(connection, outbox),
            "deliveries": _count(connection, deliveries, deliveries.c.state.not_in(_ENDED)),
            "results without a delivery": _undelivered(connection),
        }
    return ", ".join(f"{count} {what}" for what, count in waits.items() if count)


def _undelivered(connection: Connection) -> int:
    made = sa.select(deliveries.c.result_key)
    return _count(connection, results, results.c.result_key.not_in(made))


def faults_found(found: Cluster, engine: Engine, acknowledged: Iterable[Path]) -> list[str]:
    """Everything that is not as it must be; empty when nothing is."""
    with reading(engine) as connection:
        return [
            *_instances(connection, found, acknowledged),
            *_revisions(connection),
            *_effects(connection, found),
            *(f"{count} dead letters" for count in [_count(connection, dead_letters)] if count),
            *(f"{count} files quarantined" for count in [_count(connection, quarantine)] if count),
        ]


def _instances(connection: Connection, found: Cluster, acknowledged: Iterable[Path]) -> Iterator[str]:
    """Index and bytes: the data set as it was sent. What the listener wrote before it is its own."""
    store = FolderInstances(found.instances, scheme=SHARED)
    known = {row.sop_instance_uid: row for row in connection.execute(sa.select(instances))}
    for path in acknowledged:
        uid = str(pydicom.dcmread(path, specific_tags=["SOPInstanceUID"], stop_before_pixels=True).SOPInstanceUID)
        row = known.get(uid)
        if row is None:
            yield f"{path.name} was acknowledged and is not in the index"
            continue
        try:
            content = store.path(row.uri).read_bytes()
        except (HilumError, OSError) as error:
            yield f"{path.name} was acknowledged and its bytes are not in the store: {error}"
            continue
        if hashlib.sha256(content).hexdigest() != row.sha256:
            yield f"{path.name}: the stored bytes are not those of the index"
        if _data_set(content) != _data_set(path.read_bytes()):
            yield f"{path.name}: the stored data set is not the one that was sent"


def _data_set(content: bytes) -> bytes:
    """What follows the file meta information (PS3.10 7.1)."""
    return content[144 + int.from_bytes(content[140:144], "little") :]


def _revisions(connection: Connection) -> Iterator[str]:
    """The primary key keeps a revision from two end states; each must have one, and none may be of no revision."""
    ended = {(row.study_instance_uid, row.revision): row for row in connection.execute(sa.select(outcomes))}
    known = {(row.study_instance_uid, row.revision) for row in connection.execute(sa.select(revisions))}
    for study, revision in known - set(ended):
        yield f"revision {revision} of {study} has no end"
    for study, revision in set(ended) - known:
        yield f"revision {revision} of {study} ended and never was complete"
    for (study, revision), row in ended.items():
        if row.state == AiState.FAILED.value:
            yield f"revision {revision} of {study} failed: {row.reason}"


def _effects(connection: Connection, found: Cluster) -> Iterator[str]:
    identity = {
        (row.result_key, row.format): row.identity
        for row in connection.execute(sa.select(encodings.c.result_key, encodings.c.format, encodings.c.identity))
    }
    expected: dict[str, set[str]] = {format_.value: set() for format_ in Format}
    allowed: dict[str, set[str]] = {format_.value: set() for format_ in Format}
    for row in connection.execute(sa.select(deliveries)):
        allowed[row.format].add(identity[(row.result_key, row.format)])
        if row.state == DeliveryState.ACCEPTED.value:
            expected[row.format].add(identity[(row.result_key, row.format)])
        elif row.state not in _ENDED:
            yield f"delivery {row.id} to {row.destination} is {row.state}: {row.reason}"
    there = {
        Format.SR.value: Counter(found.orthanc.stored()),
        Format.FHIR.value: _kept(found.received / "fhir"),
        Format.ORU.value: _kept(found.received / "hl7"),
    }
    for format_, counted in there.items():
        for missing in expected[format_] - set(counted):
            yield f"{format_} {missing} is accepted in the ledger and not at the destination"
        for unknown in set(counted) - allowed[format_]:
            yield f"{format_} {unknown} is at the destination and not in the ledger"
        for name, count in counted.items():
            if count != 1:
                yield f"{format_} {name} is {count} times at the destination"
    yield from _one_report_each(found)


def _kept(folder: Path) -> Counter[str]:
    """How many different contents a receiver has under each identity; the same bytes again are no second effect."""
    lines = (folder / "receipts.jsonl").read_text(encoding="utf-8").splitlines()
    pairs = {(receipt["identity"], receipt["sha256"]) for receipt in map(json.loads, lines)}
    return Counter(identity.removeprefix("urn:uuid:") for identity, _digest in pairs)


def _one_report_each(found: Cluster) -> Iterator[str]:
    """In the FHIR server: one DiagnosticReport for each identifier."""
    resources = json.loads((found.received / "fhir-index.json").read_text())["resources"]
    reports = Counter(
        identifier["value"]
        for place, resource in resources.items()
        if place.startswith("DiagnosticReport/")
        for identifier in resource.get("identifier", [])[:1]
    )
    for name, count in reports.items():
        if count != 1:
            yield f"{count} DiagnosticReports have the identifier {name}"


def sent_again(found: Cluster) -> int:
    """Deliveries that reached a receiver and came again, since nobody knew that they had."""
    lines = [
        line for kind in ("fhir", "hl7") for line in (found.received / kind / "receipts.jsonl").read_text().splitlines()
    ]
    return len(lines) - len({json.loads(line)["identity"] for line in lines})


def _count(connection: Connection, table: sa.Table, *where: sa.ColumnElement[bool]) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(table).where(*where)).scalar_one())
