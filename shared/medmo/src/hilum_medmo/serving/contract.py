"""What a client and a model server say to each other, as values; triton_models/medmo/README.md has it in words.

One request is one gRPC stream. On it come messages: any number that say how far the request is (`waiting`, `running`:
a sign of life each half second), then exactly one that ends it. Meaning never changes under a tensor's name; what is
added is optional.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from hilum_medmo.grounding import GrammarError, parse, score
from hilum_medmo.model import Generation, ModelIdentity, Request

MODEL = "medmo"
"""The model's name on the server."""


class ContractError(ValueError):
    """What came is not in the contract; the text says which tensor and quotes no value."""


class Task(StrEnum):
    """What is asked. DESCRIBE asks the server who its model is, and no model anything."""

    DESCRIBE = "describe"
    LOCATE = "locate"
    REPORT = "report"
    QUESTION = "question"


class Priority(StrEnum):
    """A request passes all that wait with a later one."""

    STAT = "stat"
    URGENT = "urgent"
    ROUTINE = "routine"

    @property
    def rank(self) -> int:
        """0 is first."""
        return list(Priority).index(self)


class Status(StrEnum):
    """How a request stands. The first two are signs of life; each of the others ends it."""

    WAITING = "waiting"
    RUNNING = "running"
    ANSWERED = "answered"
    DESCRIBED = "described"
    OTHER_MODEL = "other model"
    """The server has another model than the one that was to be asked; nothing was asked."""
    OVERLOADED = "overloaded"
    """Too many wait, or the deadline came before its turn, or the server is ending; nothing was asked."""
    REFUSED = "refused"
    """This request can never succeed."""
    EXPIRED = "expired"
    """The deadline came while the model was at it."""
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def ends(self) -> bool:
        return self not in (Status.WAITING, Status.RUNNING)


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """One request to a server.

    Attributes:
        priority: its place among those that wait.
        deadline_s: seconds from its arrival at the server until nobody wants the answer any more. Relative, since two
            machines' clocks differ.
        digest: the weights that are to answer (see `ModelIdentity.digest`); empty for whatever the server has.
    """

    task: Task
    request: Request
    priority: Priority = Priority.ROUTINE
    deadline_s: float = 300.0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """One label with one box of the answer, x1 y1 x2 y2 on the 0-1000 grid, and its confidence (see `grounding`)."""

    label: str
    box: tuple[int, int, int, int]
    confidence: float


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a server.

    Attributes:
        reason: why it is not answered; for a locate task that is answered, why its text is not in the grammar.
        model: name, version and digest of the model; empty where nothing is known of one.
        generation: set when answered.
        boxes: of a locate task, the boxes of its text.
        queue_s: seconds that it waited for its turn.
        description: set when described.
    """

    status: Status
    reason: str = ""
    model: tuple[str, str, str] = ("", "", "")
    generation: Generation | None = None
    boxes: tuple[Box, ...] = ()
    queue_s: float = 0.0
    description: ModelIdentity | None = None


DESCRIBE = Asked(Task.DESCRIBE, Request((), ""), Priority.STAT, 10.0)


def boxes_of(generation: Generation, no_finding: tuple[str, ...]) -> tuple[Box, ...]:
    """Label, box and confidence of each box of a locate task's answer, in its order.

    Raises:
        GrammarError: the text is not in MedMO's grammar.
    """
    grounded = parse(generation.text, no_finding=no_finding)
    return tuple(
        Box(item.label, (box.x1, box.y1, box.x2, box.y2), scored.confidence)
        for item, scores in zip(grounded, score(generation, grounded), strict=True)
        for box, scored in zip(item.boxes, scores, strict=True)
    )


def answered(task: Task, generation: Generation, identity: ModelIdentity, *, queue_s: float) -> Said:
    """The message that ends a request with the model's answer."""
    boxes: tuple[Box, ...] = ()
    reason = ""
    if task is Task.LOCATE and generation.finish == "stop":
        try:
            boxes = boxes_of(generation, identity.no_finding)
        except GrammarError as error:
            reason = f"{error.reason} at character {error.offset}"
    return Said(Status.ANSWERED, reason, model_of(identity), generation, boxes, queue_s)


def model_of(identity: ModelIdentity) -> tuple[str, str, str]:
    """As `Said.model`."""
    return identity.name, identity.version, identity.digest
