"""Where the index is kept and how messages travel: this machine's SQLite, or the cluster's servers."""

import threading
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from hilum.adapters.dependencies import checks_of
from hilum.adapters.eventlog import EventLog, event_log
from hilum.adapters.sql.clock import clock_of
from hilum.adapters.sql.database import open_state
from hilum.domain.errors import Busy
from hilum.ports.clock import Clock
from hilum.runtime.cluster import Cluster
from hilum.runtime.health import Check
from hilum_listener.handlers.assemble import wait_for_schema


@dataclass(frozen=True, slots=True)
class State:
    """What the roles with a database share."""

    engine: Engine
    clock: Clock
    events: EventLog
    cluster: Cluster | None

    @classmethod
    def of(cls, data: Path, cluster: Cluster | None) -> "State":
        """Meets nothing yet.

        Raises:
            SecretMissing: a password can't be read.
        """
        engine = open_state(data, cluster, application="hilum-listener")
        clock = clock_of(engine)
        return cls(engine, clock, event_log(engine, cluster, clock), cluster)

    def wait(self, stop: threading.Event) -> None:
        """Returns once the database answers and is migrated, or `stop` is set."""
        while not stop.is_set():
            wait_for_schema(self.engine, stop)
            try:
                self.clock.now()
            except Busy:
                continue
            return

    def checks(self) -> dict[str, Check]:
        return checks_of(self.engine, self.cluster)
