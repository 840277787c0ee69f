"""Locks that last until the transaction ends. SQLite needs none: its write transactions follow each other."""

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy import Connection

from hilum.adapters.sql.database import is_postgresql
from hilum.adapters.sql.tables import studies


def lock_studies(connection: Connection, study_uids: Iterable[str]) -> None:
    """Locks the rows of these studies, those that are there, always in the same order so that nobody waits in a ring.

    After it the transaction sees what whoever held a lock before has committed.
    """
    uids = sorted(set(study_uids))
    if uids and is_postgresql(connection):
        query = sa.select(studies.c.study_instance_uid).where(studies.c.study_instance_uid.in_(uids))
        connection.execute(query.order_by(studies.c.study_instance_uid).with_for_update()).all()


def exclusive(connection: Connection, name: str) -> None:
    """Holds everyone else up who wants the same name, for what has no row of its own to lock."""
    if is_postgresql(connection):
        key = sa.func.hashtextextended(f"hilum {name}", 0)
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))
