"""TCP proxies between the processes and the servers, whose connections can be cut (a reset to both sides)."""

import asyncio
import threading
from contextlib import suppress

_HOST = "127.0.0.1"
_PIECE = 1 << 16


class Cuts:
    """Proxies by name, all in one thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._open: dict[str, set[asyncio.StreamWriter]] = {}
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._open)

    def add(self, name: str, target: int, port: int = 0) -> int:
        """Leads to `target` of this machine; the port to connect to."""
        self._open.setdefault(name, set())
        return asyncio.run_coroutine_threadsafe(self._serve(name, target, port), self._loop).result(10)

    def cut(self, name: str) -> int:
        """Resets every connection of this name; how many."""
        return asyncio.run_coroutine_threadsafe(self._cut(name), self._loop).result(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _serve(self, name: str, target: int, port: int) -> int:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._join(name, target, reader, writer)

        server = await asyncio.start_server(connected, _HOST, port)
        chosen: int = server.sockets[0].getsockname()[1]
        return chosen

    async def _join(self, name: str, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            behind, to_server = await asyncio.open_connection(_HOST, target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, to_server}
        self._open[name] |= both
        try:
            await asyncio.gather(_pump(reader, to_server), _pump(behind, writer))
        finally:
            self._open[name] -= both
            for one in both:
                with suppress(OSError):
                    one.close()

    async def _cut(self, name: str) -> int:
        found = set(self._open[name])
        for writer in found:
            writer.transport.abort()
        return len(found) // 2


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except (OSError, RuntimeError):
        writer.transport.abort()
