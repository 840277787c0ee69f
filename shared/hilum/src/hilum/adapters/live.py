"""Which way live updates take at a site."""

from pathlib import Path

from sqlalchemy import Engine

from hilum.adapters.sql.changes import Changes
from hilum.adapters.sql.database import database_path
from hilum.adapters.sql.live import PolledLive
from hilum.ports.live import Live
from hilum.runtime.cluster import Cluster


def open_live(engine: Engine, data: Path, cluster: Cluster | None) -> Live:
    """Hears of what is committed to this database.

    Raises:
        SecretMissing: Redis's password can't be read.
    """
    version = Changes(engine).version
    if cluster is None:
        file = database_path(data)
        return PolledLive(lambda: version() if file.exists() else None)  # looking would make an empty one
    from hilum.adapters.redis.address import redis_url
    from hilum.adapters.redis.live import RedisLive

    return RedisLive(redis_url(cluster), version)
