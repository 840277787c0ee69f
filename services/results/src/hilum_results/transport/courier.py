"""One thread for each destination, so a dead one holds up no other."""

import threading
from datetime import datetime, timedelta

from hilum.domain.errors import Busy
from hilum.ports.clock import Clock
from hilum.runtime.logs import Log
from hilum_results.transport.carrier import Carrier

_LONGEST_SLEEP_S = 5.0
_LONGEST_SLEEP_UNWOKEN_S = 1.0
"""Of one whom nobody wakes: it delivers what others were woken for."""
_BLOCKED_S = 0.25
"""How long to wait where something is due and may not be sent: others are at their limit, or at the same study."""


class Courier:
    """Delivers what is due at one destination, until it is told to stop.

    Args:
        waiting_for: takes only what nobody else took for this long.
    """

    def __init__(
        self,
        carrier: Carrier,
        *,
        clock: Clock,
        stop: threading.Event,
        log: Log,
        waiting_for: timedelta = timedelta(0),
    ) -> None:
        self.name = carrier.name
        self._carrier = carrier
        self._clock = clock
        self._stop = stop
        self._log = log
        self._waiting_for = waiting_for
        self._wake = threading.Event()

    def wake(self) -> None:
        """There may be something to send, or it is time to stop."""
        self._wake.set()

    def run(self) -> None:
        """Works until `stop` is set; a delivery that is being sent is finished first."""
        while not self._stop.is_set():
            self._wake.clear()
            try:
                if self._carrier.deliver_one(waiting_for=self._waiting_for):
                    continue
                wait_s = self._until_next()
            except Busy as error:
                self._log.warning("waiting", reason=error.reason, destination=self.name)
                wait_s = 1.0
            self._carrier.rest()
            self._wake.wait(wait_s)
        self._carrier.rest()

    def _until_next(self) -> float:
        """Seconds to sleep: to the next due time, at most a few seconds."""
        due = self._carrier.next_due()
        longest_s = _LONGEST_SLEEP_UNWOKEN_S if self._waiting_for else _LONGEST_SLEEP_S
        return sleep_s(None if due is None else due + self._waiting_for, self._clock.now(), longest_s=longest_s)


def sleep_s(due: datetime | None, now: datetime, *, longest_s: float = _LONGEST_SLEEP_S) -> float:
    """How long to sleep before looking again."""
    if due is None:
        return longest_s
    left_s = (due - now) / timedelta(seconds=1)
    return min(left_s, longest_s) if left_s > 0 else _BLOCKED_S
