"""For tests: a Python that finds this on its path reads a time of day that is minutes off.

libfaketime can't do it for whole services: under it an absolute sleep on the monotonic clock, which is what time.sleep
is, fails with EINVAL now and then. Only what Hilum and its libraries ask of Python is off; log lines are not.
"""

import os
import time
from datetime import datetime, timedelta

from hilum.ports.clock import SystemClock

_AHEAD = timedelta(minutes=int(os.environ["HILUM_CHAOS_SKEW_MIN"]))
_now, _time, _time_ns = SystemClock.now, time.time, time.time_ns


def _skewed_now(clock: SystemClock) -> datetime:
    return _now(clock) + _AHEAD


SystemClock.now = _skewed_now  # type: ignore[method-assign, assignment]
time.time = lambda: _time() + _AHEAD.total_seconds()
time.time_ns = lambda: _time_ns() + round(_AHEAD.total_seconds()) * 10**9
