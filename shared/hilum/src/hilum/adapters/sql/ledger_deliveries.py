"""The deliveries that are not at their end: those that wait for their turn and those that wait for a person."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from hilum.adapters.sql.ledger_values import as_json
from hilum.adapters.sql.tables import deliveries
from hilum.domain.results import DeliveryState, Format

_OPEN = (DeliveryState.PARKED, DeliveryState.QUEUED, DeliveryState.SENDING)


@dataclass(frozen=True, slots=True)
class OpenDelivery:
    """One format of one result that a destination has not accepted yet.

    Attributes:
        reason: the peer's last words, or why it is parked; empty before the first attempt.
        due_at: when it is tried next; means nothing for a parked one.
    """

    id: int
    study_uid: str
    revision: int
    destination: str
    format: Format
    state: DeliveryState
    attempts: int
    reason: str
    created_at: datetime
    due_at: datetime

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = as_json(self)
        return found


def list_open_deliveries(connection: Connection) -> list[OpenDelivery]:
    """Parked ones first, then what is queued or being sent; each oldest first."""
    d = deliveries.c
    query = (
        sa.select(deliveries)
        .where(d.state.in_([state.value for state in _OPEN]))
        .order_by(d.state != DeliveryState.PARKED.value, d.id)
    )
    return [
        OpenDelivery(
            id=row.id,
            study_uid=row.study_instance_uid,
            revision=row.revision,
            destination=row.destination,
            format=Format(row.format),
            state=DeliveryState(row.state),
            attempts=row.attempts,
            reason=row.reason,
            created_at=row.created_at,
            due_at=row.due_at,
        )
        for row in connection.execute(query)
    ]
