"""Whether somebody committed since the last look, at the cost of one cheap question."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.sql.database import is_postgresql, passing_trouble_is_busy


class Changes:
    """Looks from a connection of its own, for one thread at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._watch: Any = None

    def version(self) -> object:
        """Another value after every commit of another connection; equal values mean that nothing was committed.

        SQLite counts commits (`PRAGMA data_version`, microseconds). PostgreSQL says which transactions a query would
        see now, so that equal answers mean equal data; one that only read leaves it as it is.

        Raises:
            Busy: the database is away.
        """
        with passing_trouble_is_busy():
            return self._of_postgresql() if is_postgresql(self._engine) else self._of_sqlite()

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _of_sqlite(self) -> int:
        if self._watch is None:
            self._watch = self._engine.raw_connection()
        return int(self._watch.cursor().execute("PRAGMA data_version").fetchone()[0])

    def _of_postgresql(self) -> str:
        if self._watch is None or self._watch.invalidated:
            self.close()
            self._watch = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        return str(self._watch.execute(sa.text("SELECT pg_current_snapshot()::text")).scalar_one())
