"""What the services of a cluster depend on, as checks for `hilum.runtime.health`."""

import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.sql.database import reading
from hilum.runtime.cluster import Cluster
from hilum.runtime.health import Check

_TIMEOUT_S = 2.0


def checks_of(engine: Engine, cluster: Cluster | None, *, redis: bool = False) -> dict[str, Check]:
    """The database, and in a cluster Kafka; with `redis` that as well.

    Raises:
        SecretMissing: a password can't be read.
    """

    def database() -> None:
        with reading(engine) as connection:
            connection.execute(sa.select(sa.literal(1)))

    found: dict[str, Check] = {"database": database}
    if cluster is not None:
        from hilum.adapters.kafka.servers import Servers

        found["kafka"] = Servers.of(cluster).check
        if redis:
            found["redis"] = _redis(cluster)
    return found


def _redis(cluster: Cluster) -> Check:
    from redis import Redis

    from hilum.adapters.redis.address import redis_url

    client = Redis.from_url(
        redis_url(cluster).get_secret_value(), socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
    )

    def ping() -> None:
        client.ping()

    return ping
