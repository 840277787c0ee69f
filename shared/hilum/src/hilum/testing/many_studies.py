"""A ledger after months of work, filled in bulk: for tests of how the lists behave when there are many studies."""

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from hilum.adapters.sql import tables
from hilum.contracts.messages import FindingsProduced
from hilum.domain.findings import Finding, Findings
from hilum.domain.geometry import PixelBox
from hilum.domain.identity import Patient, derive_uid, digest_of, study_key
from hilum.domain.inference import ImageReference
from hilum.domain.results import AiState, DeliveryState, Format, describe, result_key, state_of
from hilum.domain.study import OrderPriority, StudyHeader
from hilum.testing.seeding import NANO

_FORMATS = {"pacs": Format.SR, "fhir": Format.FHIR, "ris": Format.ORU}
_CHUNK = 1000


def fill_many(connection: Connection, count: int, *, newest: datetime, apart: timedelta) -> list[str]:
    """`count` ended studies, one each `apart`, the newest received at `newest`; their UIDs, newest first.

    Every third has a finding, every tenth of those an urgent one; every fiftieth study was not applicable. Results were
    accepted by three destinations.
    """
    rows: dict[sa.Table, list[dict[str, Any]]] = {}
    uids = []
    for number in range(count):
        uid = derive_uid("many", str(number))
        uids.append(uid)
        for table, row in _study(number, uid, newest - number * apart):
            rows.setdefault(table, []).append(row)
    for table, made in rows.items():
        for start in range(0, len(made), _CHUNK):
            connection.execute(sa.insert(table), made[start : start + _CHUNK])
    return uids


def _study(number: int, uid: str, start: datetime) -> list[tuple[sa.Table, dict[str, Any]]]:
    header = StudyHeader(uid, Patient(f"P-{number}", f"Test^{number}", "19600229", "F"), f"A-{number}")
    ended_at = start + timedelta(seconds=8)
    about = {"study_instance_uid": uid, "revision": 1}
    applicable = number % 50 != 49
    found: list[tuple[sa.Table, dict[str, Any]]] = [
        (
            tables.studies,
            {
                **about,
                "study_key": study_key(uid),
                "receiving": False,
                "first_received_at": start,
                "last_received_at": start,
                "order_priority": OrderPriority.ROUTINE.value,
                "description": "Chest PA",
                "modalities": "DX",
                "header": asdict(header),
                "conflict": "",
                "calling_ae": "XRAY1",
            },
        ),
        (
            tables.revisions,
            {
                **about,
                "instance_count": 1,
                "last_received_at": start,
                "completed_at": start,
                "reason": "no image for 5 s",
                "closed": True,
            },
        ),
        (
            tables.routes,
            {**about, "lane": "routine" if applicable else None, "rule": "r", "reason": "why", "decided_at": start},
        ),
    ]
    if not applicable:
        outcome = {"state": AiState.NOT_APPLICABLE.value, "reason": "why", "result_key": None, "ended_at": ended_at}
        return [*found, (tables.outcomes, {**about, **outcome})]
    return [*found, *_result(number, uid, ended_at)]


def _result(number: int, uid: str, ended_at: datetime) -> list[tuple[sa.Table, dict[str, Any]]]:
    about = {"study_instance_uid": uid, "revision": 1}
    findings = _findings(number, uid, ended_at)
    key, state = result_key(uid, 1, NANO.digest), state_of(findings).value
    result = {
        **about,
        "result_key": key,
        "state": state,
        "model_name": NANO.name,
        "model_version": NANO.version,
        "model_digest": NANO.digest,
        "simulation": True,
        "findings": FindingsProduced.from_domain(findings).model_dump(mode="json"),
        "created_at": ended_at,
    }
    sent = {
        **about,
        "result_key": key,
        "state": DeliveryState.ACCEPTED.value,
        "attempts": 1,
        "token": 1,
        "due_at": ended_at,
        "reason": "0x0000",
        "created_at": ended_at,
        "accepted_at": ended_at,
    }
    outcome = {**about, "state": state, "reason": describe(findings), "result_key": key, "ended_at": ended_at}
    deliveries = [
        (tables.deliveries, {**sent, "destination": name, "format": format_.value})
        for name, format_ in _FORMATS.items()
    ]
    return [(tables.results, result), (tables.outcomes, outcome), *deliveries]


def _findings(number: int, uid: str, produced_at: datetime) -> Findings:
    image = ImageReference(
        derive_uid("s", uid), derive_uid("i", uid), "1.2.840.10008.5.1.4.1.1.1.1", "spool:x", 1, 1, 9, 9
    )
    urgent = number % 30 == 0
    box = PixelBox(1.0, 1.0, 5.0, 5.0)
    made = Finding("Fracture", box, image, 0.95 if urgent else 0.5, urgent, derive_uid("f", uid))
    return Findings(
        request_id=digest_of("request", uid)[:32],
        study_instance_uid=uid,
        revision=1,
        model=NANO,
        prompt_digest=digest_of("prompt"),
        images=(image,),
        findings=(made,) if number % 3 == 0 else (),
        dropped=(),
        report="Findings: as in the boxes.",
        ungrounded=(),
        answers=(),
        produced_at=produced_at,
        timings_s=(("decode", 0.08), ("model", 1.92), ("queue", 0.1)),
    )
