"""The consumer loop: each message is handled in one transaction together with its offset."""

import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from hilum.contracts.unhandled import why_unreadable
from hilum.domain.errors import Busy, Reject, Retry
from hilum.ports.events import Consumer, Received
from hilum.runtime.logs import Log

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_STUDY_KEY = re.compile(r"[0-9a-f]{16}")

Handler = Callable[[Any, Received], None]
"""Called with the open transaction and the message; what it writes commits together with the offset."""


def consume(
    consumer: Consumer,
    handler: Handler,
    *,
    transaction: Callable[[], AbstractContextManager[Any]],
    stop: threading.Event,
    log: Log,
) -> None:
    """Handles messages in order until `stop` is set.

    Reject: the message goes to the dead letter with its reason. Retry and Busy: the same message again, after a
    pause that doubles up to ten seconds. Any other exception is a bug, also in writing the dead letter: it ends the
    loop, nothing is committed, and the message comes again after the restart.
    """
    pause_s = _FIRST_PAUSE_S
    attempts = _Attempts()
    while not stop.is_set():
        try:
            for received in consumer.poll(timeout_s=1.0):
                if stop.is_set():
                    return
                _handle(consumer, handler, received, transaction, log, attempts.count(received))
            pause_s = _FIRST_PAUSE_S
        except (Retry, Busy) as error:
            log.warning("waiting", reason=error.reason, seconds=pause_s)
            stop.wait(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


class _Attempts:
    """How often this process took up the message that it is at, from 1."""

    def __init__(self) -> None:
        self._place: tuple[str, int, int] | None = None
        self._count = 0

    def count(self, received: Received) -> int:
        place = (received.topic, received.partition, received.offset)
        self._count = self._count + 1 if place == self._place else 1
        self._place = place
        return self._count


def _handle(
    consumer: Consumer,
    handler: Handler,
    received: Received,
    transaction: Callable[[], AbstractContextManager[Any]],
    log: Log,
    attempt: int,
) -> None:
    try:
        with transaction() as connection:
            # First the offset: whoever has it committed shuts out a member that lost the partition and doesn't know.
            consumer.commit(connection, received)
            unreadable = why_unreadable(received.payload)
            if unreadable:
                raise Reject(unreadable)
            handler(connection, received)
    except Reject as error:
        with transaction() as connection:
            consumer.dead_letter(connection, received, error.reason, attempt)
        log.error(
            "dead letter",
            topic=received.topic,
            offset=received.offset,
            study=received.key if _STUDY_KEY.fullmatch(received.key) else "",  # a foreign key may say anything
            reason=error.reason,
            attempt=attempt,
        )
