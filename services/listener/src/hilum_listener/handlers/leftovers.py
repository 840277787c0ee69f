"""Removes what dead runs of the receivers left in the spool: names never used, half a file, a file without its entry.

Nobody was told of any of them. A run is dead when nothing locks its file in `runs/`. Of its files those are removed
that neither the index nor any journal names; of those with content only what was written since the journals are all
there (`journal_since`), however little the index knows, since the entry of an older one may be gone with its journal.
That is `hilum reindex`'s. The run's file goes last, so a kill on the way repeats the search.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from sqlalchemy import Engine

from hilum.adapters.sql.database import reading
from hilum.domain.errors import Busy
from hilum.runtime.logs import Log
from hilum_listener.handlers.journal import is_growing, sync_folder
from hilum_listener.handlers.journal_since import begin_journals, journals_since
from hilum_listener.handlers.spool_files import SpoolFile, files_of, indexed, keys_in
from hilum_listener.settings import Places

_LOG = Log("hilum.listener.leftovers")
_LOOK_EACH = timedelta(seconds=30)
_FOLDERS_AT_ONCE = 8
_SLACK_S = 60.0
"""Of the times that the file system gives."""


class Leftovers:
    """Works in the assembler's thread, a little at a time."""

    def __init__(self, places: Places, engine: Engine, journal_days: float | None) -> None:
        self._places = places
        self._engine = engine
        self._journal_days = journal_days
        self._look_at: datetime | None = None
        self._search: Iterator[None] | None = None
        with suppress(OSError):  # then nothing with content is removed
            begin_journals(places.journal)

    def step(self, now: datetime) -> None:
        """Does a little of what is to do.

        Raises:
            Busy: the database or the spool is away.
        """
        try:
            if self._search is None:
                if self._look_at is not None and now < self._look_at:
                    return
                self._look_at = now + _LOOK_EACH
                dead = self._dead_runs()
                if not dead:
                    return
                self._search = self._searching(dead, now)
            next(self._search)
        except StopIteration:
            self._search = None
        except OSError as error:
            self._search = None
            raise Busy(f"what a dead receiver left can't be removed: {type(error).__name__}") from error
        except Busy:
            self._search = None
            raise

    def _dead_runs(self) -> frozenset[str]:
        try:
            return frozenset(path.name for path in self._places.runs.iterdir() if not is_growing(path))
        except FileNotFoundError:  # no receiver has run here yet
            return frozenset()

    def _searching(self, dead: frozenset[str], now: datetime) -> Iterator[None]:
        named: set[str] = set()
        since_s = min((self._places.runs / run).stat().st_mtime for run in dead) - _SLACK_S
        for journal in sorted(self._places.journal.iterdir()):
            if journal.stat().st_mtime >= since_s:
                for keys in keys_in(journal):
                    named.update(key for key in keys if key[3:19] in dead)
                yield
        suspects: list[SpoolFile] = []
        for number in range(256):
            found = files_of(self._places.spool / f"{number:02x}")
            suspects += [file for file in found if file.run in dead and file.key not in named]
            if number % _FOLDERS_AT_ONCE == _FOLDERS_AT_ONCE - 1:
                yield
        since = journals_since(self._places.journal)
        young = [file for file in suspects if self._is_young(file, now, since)]
        with reading(self._engine) as connection:
            known = indexed(connection, young)
        self._remove([file for file in young if file.key not in known])
        for run in dead:
            (self._places.runs / run).unlink(missing_ok=True)
        sync_folder(self._places.runs)

    def _is_young(self, file: SpoolFile, now: datetime, since_s: float | None) -> bool:
        if not file.size:
            return True
        if since_s is None or file.changed_s <= since_s:
            return False
        if self._journal_days is None:
            return True
        return file.changed_s > (now - timedelta(days=self._journal_days)).timestamp() + _SLACK_S

    def _remove(self, files: Sequence[SpoolFile]) -> None:
        for file in files:
            (self._places.spool / file.key).unlink(missing_ok=True)
        for folder in {file.key[:2] for file in files}:
            sync_folder(self._places.spool / folder)
        written = sum(file.size > 0 for file in files)
        if written:
            _LOG.warning("removed files that no sender was told of", count=written)
