"""The end of patience with one job: a decoder or model that hangs ends the process; the supervisor starts a new one.

Python can't stop a thread from outside, so the process is what ends. Two watches, because a hang has two forms: a
thread of this process, which can still say why; and, a little later, a timer in C, which also ends a process whose
decoder hangs while it holds the interpreter's lock, or whose first watch hangs itself.
"""

import faulthandler
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta


class OwnProcess:
    """The process that this code runs in."""

    def end(self) -> None:
        """Ends it at once with exit code 1, whatever its threads are doing."""
        os._exit(1)

    def end_in(self, seconds: float) -> None:
        """Ends it that way after `seconds`, unless `go_on` comes first. One timer in a process: the next replaces it.

        It writes where the code stood and never a value, so no patient's name can be in it.
        """
        faulthandler.dump_traceback_later(seconds, exit=True, file=2)  # standard error

    def go_on(self) -> None:
        faulthandler.cancel_dump_traceback_later()


@contextmanager
def ends_within(limit: timedelta, overrun: Callable[[], None], process: OwnProcess) -> Iterator[None]:
    """Calls `overrun` and then ends the process when the body is not through within `limit` of monotonic time.

    The process ends whatever becomes of `overrun`.
    """
    finished = threading.Event()

    def watch() -> None:
        if finished.wait(limit.total_seconds()):  # an event's wait goes by the monotonic clock
            return
        try:
            overrun()
        finally:
            process.end()

    process.end_in(limit.total_seconds() * 1.1 + 1.0)  # the watch gets time to write down why
    threading.Thread(target=watch, name="deadline", daemon=True).start()
    try:
        yield
    finally:
        finished.set()
        process.go_on()
