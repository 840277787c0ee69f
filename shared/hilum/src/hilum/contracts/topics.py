"""The topics: who writes them, what the key is, and how long they are kept."""

from dataclasses import dataclass
from datetime import timedelta

from hilum.domain.inference import Lane

MAX_MESSAGE_BYTES = 16 * 2**20
"""The largest payload, in bytes of UTF-8. The list of a study's images takes some 400 bytes an image."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of the event log. The key of every message is the study key, so a study's messages keep their order.

    Attributes:
        schema: of the messages, without the version; a file of that name is in `schemas/` and in `examples/`.
        partitions: how many members of one group can share the work. Growing sends a key elsewhere, so a study's
            newer message may overtake an older one once; consumers drop lower revisions.
        retention_days: in Kafka. The embedded log knows who has read, and forgets as `results.keep_events_days` says.
        groups: the consumer groups that must have read a message before the embedded log may forget it.
        cleanup: Kafka's `cleanup.policy`. Nothing is compacted: each message is a fact, not the newest value of a key.
    """

    name: str
    owner: str
    schema: str
    partitions: int
    retention_days: int
    why: str
    groups: tuple[str, ...]
    key: str = "study key"
    cleanup: str = "delete"

    @property
    def retention(self) -> timedelta:
        return timedelta(days=self.retention_days)


STUDY_READY = Topic(
    name="study.ready",
    owner="listener/assemble",
    schema="study.ready",
    partitions=12,
    retention_days=14,
    why="a revision is complete and its files can be read",
    groups=("listener.route",),
)
INFERENCE = {
    lane: Topic(
        name=f"inference.{lane}",
        owner="listener/route",
        schema="inference.requested",
        partitions=12,
        retention_days=14,
        why=f"requests to the model in the {lane} lane",
        groups=("worker",),
    )
    for lane in Lane
}
FINDINGS_PRODUCED = Topic(
    name="findings.produced",
    owner="worker",
    schema="findings.produced",
    partitions=12,
    retention_days=30,
    why="what the model said about a revision",
    groups=("results",),
)
STUDY_ENDED = Topic(
    name="study.ended",
    owner="listener/route, worker; any service whose message became a dead letter",
    schema="study.ended",
    partitions=12,
    retention_days=30,
    why="a revision ended without findings, and why",
    groups=("results",),
)
DEAD_LETTERS = Topic(
    name="dead.letters",
    owner="any service",
    schema="dead.letter",
    partitions=3,
    retention_days=90,
    why="a message could not be handled; for alarms, the message itself is in the table dead_letters",
    groups=(),
    key="that of the message",
)
TOPICS = (STUDY_READY, *INFERENCE.values(), FINDINGS_PRODUCED, STUDY_ENDED, DEAD_LETTERS)
