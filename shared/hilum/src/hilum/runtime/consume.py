"""The consumer loop: each message is handled in one transaction together with its offset."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from hilum.domain.errors import Busy, Reject, Retry
from hilum.ports.events import Consumer, Received
from hilum.runtime.logs import Log

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0

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
    pause that doubles up to ten seconds. Any other exception is a bug: it ends the loop, nothing is committed, and
    the message comes again after the restart.
    """
    pause_s = _FIRST_PAUSE_S
    while not stop.is_set():
        try:
            for received in consumer.poll(timeout_s=1.0):
                if stop.is_set():
                    return
                _handle(consumer, handler, received, transaction, log)
            pause_s = _FIRST_PAUSE_S
        except (Retry, Busy) as error:
            log.warning("waiting", reason=error.reason, seconds=pause_s)
            stop.wait(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


def _handle(
    consumer: Consumer,
    handler: Handler,
    received: Received,
    transaction: Callable[[], AbstractContextManager[Any]],
    log: Log,
) -> None:
    try:
        with transaction() as connection:
            handler(connection, received)
            consumer.commit(connection, received)
    except Reject as error:
        log.error("dead letter", topic=received.topic, offset=received.offset, study=received.key, reason=error.reason)
        with transaction() as connection:
            consumer.dead_letter(connection, received, error.reason)
