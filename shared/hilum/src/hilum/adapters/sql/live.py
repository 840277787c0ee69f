"""Live updates by looking into the database: the embedded side, and what is left where Redis is away."""

import threading
from collections.abc import Callable

from hilum.domain.errors import Busy

_EVERY_S = 0.5


class PolledLive:
    """Looks whether somebody committed, again and again, from a thread of its own.

    Args:
        version: another value after a commit (`hilum.adapters.sql.changes.Changes.version`), called by one thread.
    """

    def __init__(self, version: Callable[[], object], *, every_s: float = _EVERY_S) -> None:
        self._version = version
        self._every_s = every_s
        self._number = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._look, name="live", daemon=True)
        self._thread.start()

    @property
    def number(self) -> int:
        return self._number

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _look(self) -> None:
        seen: object = None
        while not self._closed.wait(self._every_s):
            try:
                version = self._version()
            except Busy:
                continue
            if version != seen:
                seen = version
                self._number += 1
