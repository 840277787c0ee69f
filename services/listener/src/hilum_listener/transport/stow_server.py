"""The HTTP server in front of `hilum_listener.transport.stow`: sockets, TLS, and what a connection may take in time."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from hilum_listener.settings import StowSettings
from hilum_listener.transport.certificates import server_context

_DRAIN_S = 8
_KEEP_ALIVE_S = 15
_HEAD_S = 10.0
_MAX_HEAD_BYTES = 16_384
_MAX_CONNECTIONS = 900  # below the usual limit of 1024 open files


class Connection(H11Protocol):
    """uvicorn's connection, with the limits in time and number that it leaves to a proxy.

    The head of a request must be whole within ten seconds of the connection, or of the first byte of the request; a
    sender that was answered before its body had ended may go on so long, since one that is cut off while it sends does
    not see the answer.
    """

    _watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does it only for sockets that were made with this protocol's number; an answer goes out in two pieces
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        shown = transport.get_extra_info("ssl_object")
        if shown is not None:
            self.app_state = {**self.app_state, "certificate": shown.getpeercert(binary_form=True)}
        if len(self.connections) > _MAX_CONNECTIONS:
            transport.abort()
        self._start_watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._acknowledge()
        super().data_received(data)
        if self._is_serving():
            self._stop_watch()
        else:
            self._start_watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._start_watch()

    def _acknowledge(self) -> None:
        """At once, as `transport.scp.PromptSocket` does: a sender that waits for it loses 40 ms a time."""
        with contextlib.suppress(OSError):
            self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _is_serving(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _start_watch(self) -> None:
        if self._watch is None:
            self._watch = self.loop.call_later(_HEAD_S, self._too_slow)

    def _stop_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _too_slow(self) -> None:
        self._watch = None
        if not self._is_serving():
            self.transport.abort()


class _Server(uvicorn.Server):
    """Stops when the event says so; the signals belong to `hilum.runtime.lifecycle`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class StowServer:
    """Listens from its construction on; serves while `run` runs."""

    def __init__(self, settings: StowSettings, app: ASGIApp) -> None:
        """Raises OSError when the address can't be used, CertificateUnusable when the certificates can't."""
        config: Any = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,  # a path may hold a study's UID
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_DRAIN_S,
        )
        config.load()
        config.ssl = None if settings.tls is None else server_context(settings.tls, settings.peers)
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        self._socket = socket.create_server((settings.host, settings.port), family=family, backlog=256)
        self._server = _Server(config)

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    def run(self, stop: threading.Event) -> None:
        """Serves until `stop`, then lets requests finish for eight seconds."""
        threading.Thread(target=self._end, args=(stop,), name="stow-stop", daemon=True).start()
        self._server.run(sockets=[self._socket])

    def _end(self, stop: threading.Event) -> None:
        stop.wait()
        self._server.should_exit = True
