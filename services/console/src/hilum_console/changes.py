"""Tells open pages that something changed, as server-sent events (HTML 9.2). A page then asks for itself again."""

import asyncio
import time
from collections.abc import AsyncIterator

from hilum.ports.live import Live

_LOOK_S = 0.1
_AT_MOST_EACH_S = 0.5
_SIGN_OF_LIFE_S = 5.0


class Changes:
    """One stream for each visible page; an event carries nothing but its name."""

    def __init__(self, live: Live) -> None:
        self._live = live

    async def stream(self) -> AsyncIterator[str]:
        """Until the page goes, which cancels it, or the console stops."""
        seen, said_s = self._live.number, time.monotonic()
        yield ": here\n\n"
        while not self._live.closed:
            await asyncio.sleep(_LOOK_S)
            number, now_s = self._live.number, time.monotonic()
            if number != seen:
                seen, said_s = number, now_s
                yield "event: changed\ndata:\n\n"
                await asyncio.sleep(_AT_MOST_EACH_S)
            elif now_s - said_s >= _SIGN_OF_LIFE_S:
                said_s = now_s
                yield ": still here\n\n"
