"""The topics: who writes them, what the key is, and how long they are kept."""

from dataclasses import dataclass

from hilum.domain.inference import Lane


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of the event log. The key of every message is the study key, so a study's messages keep their order.

    Attributes:
        retention_days: in Kafka. The embedded log knows who has read, and forgets as `results.keep_events_days` says.
        groups: the consumer groups that must have read a message before the embedded log may forget it.
    """

    name: str
    owner: str
    partitions: int
    retention_days: int
    why: str
    groups: tuple[str, ...]


STUDY_READY = Topic(
    "study.ready", "listener/assemble", 12, 14, "a revision is complete and its files can be read", ("listener.route",)
)
FINDINGS_PRODUCED = Topic("findings.produced", "worker", 12, 30, "what the model said about a revision", ("results",))
STUDY_ENDED = Topic(
    "study.ended", "listener/route, worker", 12, 30, "a revision ended without findings, and why", ("results",)
)
INFERENCE = {
    lane: Topic(f"inference.{lane}", "listener/route", 12, 14, f"requests to the model in the {lane} lane", ("worker",))
    for lane in Lane
}
TOPICS = (STUDY_READY, *INFERENCE.values(), FINDINGS_PRODUCED, STUDY_ENDED)
