"""INSERT … ON CONFLICT, which SQLite and PostgreSQL both have and spell alike, each in a class of its own."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

from hilum.adapters.sql.database import Conflict, is_postgresql

Insert = postgresql.Insert | sqlite.Insert


def insert(connection: Connection, table: Table) -> Insert:
    """An INSERT for the database of this connection, with `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return postgresql.insert(table) if is_postgresql(connection) else sqlite.insert(table)


def insert_new(connection: Connection, table: Table, values: Mapping[str, Any]) -> None:
    """Inserts a row whose key the caller has just looked for in vain.

    Raises:
        Conflict: on PostgreSQL, where another transaction may have written the key since; repeated, the caller's
            transaction sees that row. SQLite has one writer at a time.
        IntegrityError: the key is there, on SQLite.
    """
    if not is_postgresql(connection):
        connection.execute(sa.insert(table).values(**values))
    elif connection.execute(insert(connection, table).values(**values).on_conflict_do_nothing()).rowcount == 0:
        raise Conflict(f"another process wrote the same row of {table.name}")
