"""Once an hour, in small transactions: old messages of the embedded event log are forgotten.

The results service does it for all, since its lock makes it the only one on the data folder.
"""

import threading

from sqlalchemy import Engine

from hilum.adapters.sql.database import transaction
from hilum.adapters.sql.event_retention import forget_consumed
from hilum.domain.errors import Busy
from hilum.ports.clock import Clock
from hilum.runtime.logs import Log
from hilum_results.settings import Settings

_INTERVAL_S = 3600.0
_BREATH_S = 0.1  # between two batches, so that writers who wait for the lock get it


def keep_up(settings: Settings, engine: Engine, clock: Clock, stop: threading.Event, log: Log) -> None:
    """Works until `stop` is set."""
    while not stop.is_set():
        try:
            count = forget_old_events(settings, engine, clock, stop)
            if count:
                log.info("old events forgotten", count=count)
        except Busy as error:
            log.warning("waiting", reason=error.reason)
        stop.wait(_INTERVAL_S)


def forget_old_events(settings: Settings, engine: Engine, clock: Clock, stop: threading.Event) -> int:
    """Every message that is done with and older than the settings say; how many.

    Raises:
        Busy: the database is away; what was deleted before stays deleted.
    """
    count = 0
    while not stop.is_set():
        with transaction(engine) as connection:
            found = forget_consumed(connection, before=clock.now() - settings.keep_events)
        if not found:
            break
        count += found
        stop.wait(_BREATH_S)
    return count
