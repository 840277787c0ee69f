"""The event log: durable topics with consumer groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish. `key` is the study key; `payload` is JSON text of a contract.

    `headers` carry the trace (`hilum.contracts.trace`); each service hands on what it received.
    """

    topic: str
    key: str
    payload: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Received:
    """A message of the log. Its place is topic, partition and offset; on one machine there is one partition, 0."""

    topic: str
    offset: int
    key: str
    payload: str
    headers: Mapping[str, str]
    partition: int = 0


class Publisher(Protocol):
    def publish(self, connection: Any, messages: Sequence[Outgoing]) -> None:
        """Adds the messages to the transaction of `connection`: they exist if and only if it commits."""
        ...


class Consumer(Protocol):
    """One member of a group on some topics. At least once: what isn't committed comes again."""

    def poll(self, *, timeout_s: float, limit: int = 16) -> Sequence[Received]:
        """The next messages in order of offset; empty when none came in time."""
        ...

    def commit(self, connection: Any, received: Received) -> None:
        """Records inside the transaction of `connection` that everything up to this message is done.

        Messages are committed in the order in which they were polled.

        Raises:
            Retry: another member of the group has handled it meanwhile. Nothing may be written in this transaction.
        """
        ...

    def dead_letter(self, connection: Any, received: Received, reason: str, attempt: int = 1) -> None:
        """Stores the message with its reason and commits it, inside the transaction of `connection`.

        A notice goes to the topic of dead letters in that transaction as well, and, when the message names its
        revision, `study.ended` (failed, with the reason), so that the revision ends visibly; the end of an end is not.
        """
        ...
