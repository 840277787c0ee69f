"""For tests: a Python that finds this on its path has a machine clock that is minutes off, as Hilum reads it.

Not libfaketime, under which time.sleep fails with EINVAL now and then; and not time.time, by which gRPC makes deadlines
for a library that reads the kernel's clock. Single steps are tested under libfaketime (tests/contract).
"""

import os
from datetime import datetime, timedelta

from hilum.ports.clock import SystemClock

_AHEAD = timedelta(minutes=int(os.environ["HILUM_CHAOS_SKEW_MIN"]))
_now = SystemClock.now


def _skewed_now(clock: SystemClock) -> datetime:
    return _now(clock) + _AHEAD


SystemClock.now = _skewed_now  # type: ignore[method-assign, assignment]
