"""Forgets what procedure steps, notifications and commitment requests said, once nobody needs to know it any more."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from hilum.adapters.sql.tables import (
    availability_notices,
    commitment_requests,
    commitments,
    committed_elsewhere,
    instances,
    procedure_steps,
    studies,
    study_senders,
)

LIMIT = 200
"""Rows of each table at once, so that no transaction is long."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Numbers of rows; `undelivered` of them are reports that nobody took."""

    rows: int
    undelivered: int


def forget_notices(connection: Connection, until: datetime) -> Forgotten:
    """Deletes some rows of what nothing has changed since `until`, in the caller's transaction.

    Kept however old they are: what speaks of a study that is being received; a request that isn't decided, or whose
    report is being sent; what another system answers for as long as the object is here or was answered for on its
    word. What Hilum itself answered for (`commitments`) is never touched.
    """
    now_receiving = sa.select(studies.c.study_instance_uid).where(studies.c.receiving)
    steps, notices, requests, senders = (
        table.c for table in (procedure_steps, availability_notices, commitment_requests, study_senders)
    )
    elsewhere = committed_elsewhere.c
    rows = _delete(
        connection, procedure_steps, steps.changed_at <= until, steps.study_instance_uid.not_in(now_receiving)
    )
    rows += _delete(
        connection, availability_notices, notices.received_at <= until, notices.study_instance_uid.not_in(now_receiving)
    )
    rows += _delete(connection, study_senders, senders.study_instance_uid.not_in(now_receiving))
    rows += _delete(
        connection,
        committed_elsewhere,
        elsewhere.reported_at <= until,
        elsewhere.sop_instance_uid.not_in(sa.select(instances.c.sop_instance_uid)),
        elsewhere.sop_instance_uid.not_in(sa.select(commitments.c.sop_instance_uid)),
    )
    rows += _delete(connection, commitment_requests, requests.state == "delivered", requests.delivered_at <= until)
    undelivered = _delete(connection, commitment_requests, requests.state == "due", requests.requested_at <= until)
    return Forgotten(rows + undelivered, undelivered)


def _delete(connection: Connection, table: sa.Table, *where: sa.ColumnElement[bool]) -> int:
    key = list(table.primary_key.columns)
    some = sa.select(*key).where(*where).limit(LIMIT)
    found = sa.tuple_(*key).in_(some) if len(key) > 1 else key[0].in_(some)
    return connection.execute(sa.delete(table).where(found)).rowcount
