"""INSERT … ON CONFLICT, which SQLite and PostgreSQL both have and spell alike, each in a class of its own."""

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

from hilum.adapters.sql.database import is_postgresql

Insert = postgresql.Insert | sqlite.Insert


def insert(connection: Connection, table: Table) -> Insert:
    """An INSERT for the database of this connection, with `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return postgresql.insert(table) if is_postgresql(connection) else sqlite.insert(table)
