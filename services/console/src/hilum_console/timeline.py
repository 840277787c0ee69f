"""The way of one revision through Hilum, step by step, with the seconds that each took."""

from dataclasses import dataclass
from datetime import datetime

from hilum.adapters.sql.ledger_values import RevisionRow
from hilum.domain.results import DeliveryState


@dataclass(frozen=True, slots=True)
class Step:
    """`at` is None while the step is still to come. Seconds since the step before and since the last image."""

    name: str
    note: str
    at: datetime | None
    took_s: float | None
    since_image_s: float | None


def steps(revision: RevisionRow) -> tuple[Step, ...]:
    """Received, complete, routed, model, encoded, delivered; a revision that ended without a result ends there."""
    found: list[tuple[str, str, datetime | None]] = [
        ("received", f"{revision.instance_count} image(s)", revision.last_received_at),
        ("complete", revision.complete_reason, revision.completed_at),
    ]
    route = revision.route
    note = (route.reason or route.rule) if route else ""
    lane = f"{route.lane} lane" if route and route.lane else ""
    found.append(("routed", ": ".join(part for part in (lane, note) if part), route.decided_at if route else None))
    if route is None or route.lane:
        found += _model(revision)
    if revision.result is not None:
        found.append(("encoded", " ".join(f.upper() for f in revision.result.formats), revision.result.created_at))
        found += _delivered(revision)
    elif revision.ended_at is not None:
        found.append(("ended", revision.reason, revision.ended_at))
    else:
        found.append(("result", "", None))
    return _measured(found, revision.last_received_at)


def _model(revision: RevisionRow) -> list[tuple[str, str, datetime | None]]:
    job = revision.job
    if job is None:
        return [("model started", "", None), ("model done", "", None)]
    tries = f"attempt {job.attempts}" if job.attempts else ""
    note = f"{tries}; last error: {job.last_error}" if job.last_error else tries
    return [
        ("model started", note, job.started_at),
        ("model failed" if job.state == "failed" else "model done", "", job.finished_at),
    ]


def _delivered(revision: RevisionRow) -> list[tuple[str, str, datetime | None]]:
    meant = [d for d in revision.deliveries if d.state not in (DeliveryState.WITHHELD, DeliveryState.SUPERSEDED)]
    if not meant:
        return []
    done = [d.accepted_at for d in meant if d.accepted_at is not None]
    parked = sum(d.state is DeliveryState.PARKED for d in meant)
    note = f"{len(done)} of {len(meant)} accepted" + (f", {parked} parked" if parked else "")
    return [("delivered", note, max(done) if len(done) == len(meant) else None)]


def _measured(found: list[tuple[str, str, datetime | None]], start: datetime) -> tuple[Step, ...]:
    measured: list[Step] = []
    before: datetime | None = None
    for name, note, at in found:
        took = (at - before).total_seconds() if at is not None and before is not None else None
        measured.append(Step(name, note, at, took, (at - start).total_seconds() if at is not None else None))
        before = at or before
    return tuple(measured)
