"""The event log: durable topics with consumer groups."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish. `key` is the study key; `payload` is JSON text of a contract."""

    topic: str
    key: str
    payload: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Received:
    topic: str
    offset: int
    key: str
    payload: str
    headers: Mapping[str, str]


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
        """Records inside the transaction of `connection` that everything up to this message is done."""
        ...

    def dead_letter(self, connection: Any, received: Received, reason: str) -> None:
        """Stores the message with its reason and commits it, inside the transaction of `connection`.

        When the message names its revision, `study.ended` (failed, with the reason) is published in that transaction as
        well, so that the revision ends visibly; the end of an end is not.
        """
        ...
