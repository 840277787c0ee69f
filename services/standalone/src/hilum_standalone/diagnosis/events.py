"""Checks of a cluster's events: Kafka answers, its topics are as declared, and the outbox empties."""

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from hilum.runtime.cluster import Cluster, SecretMissing
from hilum_standalone.diagnosis.check import Check, note, ok, red

if TYPE_CHECKING:
    from sqlalchemy import Connection

_SLOW = timedelta(seconds=10)


def events(cluster: Cluster, connection: "Connection") -> Iterator[Check]:
    """`connection`: to the cluster's database, to read."""
    yield _kafka(cluster)
    yield _outbox(connection)


def _kafka(cluster: Cluster) -> Check:
    from hilum.adapters.kafka.servers import Servers
    from hilum.adapters.kafka.topics import TopicAdmin
    from hilum.contracts.topics import TOPICS
    from hilum.domain.errors import Busy

    try:
        admin = TopicAdmin(Servers.of(cluster))
        try:
            steps = admin.plan(TOPICS)
        finally:
            admin.close()
    except SecretMissing as error:
        return red("Kafka", str(error), "give it in its file or in the environment")
    except Busy as error:
        return red("Kafka", error.reason, "start it, or mend kafka in [cluster]; messages wait in the outbox meanwhile")
    missing = [step.topic.name for step in steps if step.replicas]
    if missing:
        return red("Kafka", f"has no topic {', '.join(missing)}", "hilum topics")
    other = [step.topic.name for step in steps if step.is_change]
    if other:
        return note("Kafka", f"topics are not as declared: {', '.join(other)}", "hilum topics")
    return ok("Kafka", f"{len(steps)} topics as declared")


def _outbox(connection: "Connection") -> Check:
    from hilum.adapters.sql.clock import clock_of
    from hilum.adapters.sql.outbox import backlog

    count, oldest = backlog(connection)
    if oldest is None:
        return ok("Outbox", "empty")
    age = clock_of(connection.engine).now() - oldest
    found = f"waiting for Kafka: {count}, the oldest for {age.total_seconds():.0f} s"
    if age < _SLOW:
        return ok("Outbox", found)
    return red("Outbox", found, "is Kafka there, and does a service run? A relay in each of them publishes")
