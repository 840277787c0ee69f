"""Tells who shows the worklist of what is committed."""

from sqlalchemy import Connection, Engine, event

from hilum.ports.live import Announcer


def announce_commits(engine: Engine, announcer: Announcer) -> None:
    """From now on each commit of this engine is announced, so that no service has to think of it."""

    @event.listens_for(engine, "commit")
    def _committed(_connection: Connection) -> None:
        announcer.changed()
