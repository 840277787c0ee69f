"""The model port over several model servers that have the same weights."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

import hilum_medmo
from hilum.domain.errors import Busy, Reject, Retry
from hilum.domain.inference import Lane, ModelIdentity, Task
from hilum.ports.model import ModelAnswer
from hilum.runtime.logs import Log
from hilum_medmo.serving import contract
from hilum_worker.medmo import identity_of, prompt_of, read, request_of
from hilum_worker.triton.replica import Away, Broke, Patience, Replica, Trouble

_MOST_ASKED = 3
_PAUSE_S = 1.0


class TritonModel:
    """MedMO on model servers behind the `Model` port.

    One answer asks one server; when that is away, another; when it broke at it, another up to `_MOST_ASKED`. Servers
    take turns. Whose weights have another digest than `declared` is not asked: the server itself is told which weights
    are to answer, and every answer says which did.
    """

    def __init__(
        self,
        declared: hilum_medmo.ModelIdentity,
        replicas: Sequence[Replica],
        patience: Patience,
        log: Log,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        first: int | None = None,
    ) -> None:
        """Args:
        declared: the model that is to answer; its prompts, labels and thresholds count, whatever a server has.
        first: the server that is asked first; workers differ in it, so that one server doesn't get them all.
        """
        self._declared = declared
        self._replicas = tuple(replicas)
        self._patience = patience
        self._log = log
        self._should_stop = should_stop
        self._identity = identity_of(declared)
        self._turns = itertools.count(os.getpid() if first is None else first)

    @property
    def identity(self) -> ModelIdentity:
        return self._identity

    @property
    def labels(self) -> tuple[str, ...]:
        return self._declared.labels

    def prompt(self, task: Task) -> str:
        return prompt_of(task, self._declared)

    def ready(self) -> None:
        """Busy while every server rests after it failed."""
        if all(replica.rests for replica in self._replicas):
            raise Busy(self._nobody())

    def answer(self, task: Task, image: NDArray[np.uint8], *, lane: Lane = Lane.ROUTINE) -> ModelAnswer:
        """Asks until one server gives an answer that can be read.

        Raises:
            Reject: the request can't be answered by this model.
            Retry: at least one server broke at it, or answered what can't be read, and no other answered.
            Busy: no server could be asked, or the worker is stopping.
        """
        request = request_of(task, image, self._declared)
        kind, priority = contract.Task(task.kind.value), contract.Priority(lane.value)
        asked = contract.Asked(kind, request, priority, self._patience.answer_s, self._declared.digest)
        broken: list[str] = []
        for replica in self._in_turn():
            try:
                return self._ask(replica, asked, task)
            except Away:
                continue
            except Broke as error:
                broken.append(f"model server {replica.address}: {error.reason}")
                if len(broken) == _MOST_ASKED:
                    break
        if broken:
            raise Retry("; ".join(broken))
        raise Busy(self._nobody())

    def close(self) -> None:
        for replica in self._replicas:
            replica.close()

    def _ask(self, replica: Replica, asked: contract.Asked, task: Task) -> ModelAnswer:
        before = replica.trouble
        try:
            said = replica.ask(asked, should_stop=self._should_stop)
            answer = self._read(said, task)
        except Trouble as error:
            if error.reason != before:
                self._log.warning("model server gives no answer", peer=replica.address, reason=error.reason)
            raise
        if before:
            self._log.info("model server answers again", peer=replica.address)
        return answer

    def _read(self, said: contract.Said, task: Task) -> ModelAnswer:
        """Checked like any stranger's: the boxes must be those of the text."""
        if said.generation is None:
            raise Broke("answered without an answer", rests=False)
        try:
            answer = read(said.generation, task, self._declared)
        except Reject as error:
            raise Broke(error.reason, rests=False) from error
        if [(each.label, each.box) for each in said.boxes] != [(each.label, each.box) for each in answer.findings]:
            raise Broke("answered with boxes that are not those of its text", rests=False)
        return answer

    def _in_turn(self) -> Iterator[Replica]:
        start = next(self._turns) % len(self._replicas)
        yield from (each for each in (*self._replicas[start:], *self._replicas[:start]) if not each.rests)

    def _nobody(self) -> str:
        return f"no model server answers: {_troubles(self._replicas)}"


def _troubles(replicas: Sequence[Replica]) -> str:
    return "; ".join(f"{each.address}: {each.trouble or 'has others'}" for each in replicas)


def connect(
    addresses: Sequence[str],
    patience: Patience,
    *,
    declared: hilum_medmo.ModelIdentity | None,
    digest: str,
    stop: threading.Event,
    wait: bool = True,
) -> TritonModel | None:
    """The model on these servers; None when `stop` was set first.

    Args:
        declared: what the worker knows of the model by a checkpoint of its own; without it, what the first server says
            that has the weights with this digest, which may take until there is one.

    Raises:
        Busy: there is none, and `wait` is False.
    """
    log = Log("hilum.worker")
    replicas = [Replica(address, patience) for address in addresses]
    while declared is None and not stop.is_set():
        declared = describe(replicas, digest, should_stop=stop.is_set, log=log)
        if declared is None and not wait:
            raise Busy(f"no model server has the weights {digest[:12]}: {_troubles(replicas)}")
        if declared is None:
            stop.wait(_PAUSE_S)
    if declared is None:
        for replica in replicas:
            replica.close()
        return None
    return TritonModel(declared, replicas, patience, log, should_stop=stop.is_set)


def describe(
    replicas: Sequence[Replica], digest: str, *, should_stop: Callable[[], bool], log: Log
) -> hilum_medmo.ModelIdentity | None:
    """What the first of these servers with these weights says about its model; None when there is none now."""
    for replica in replicas:
        before = replica.trouble
        try:
            said = replica.ask(contract.DESCRIBE, should_stop=should_stop)
        except (Trouble, Reject) as error:
            if replica.trouble != before:
                log.warning("model server gives no answer", peer=replica.address, reason=error.reason)
        except Busy:
            return None
        else:
            if said.description is not None and said.description.digest == said.model[2] == digest:
                return said.description
            log.warning("model server has other weights", peer=replica.address)
    return None
