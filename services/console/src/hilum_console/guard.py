"""What stands before every request: the Host check, the method check, and the headers that keep a page in its box."""

from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HOSTS = frozenset({"127.0.0.1", "localhost"})
_METHODS = frozenset({"GET", "HEAD"})

HEADERS: Mapping[str, str] = {
    # No inline script or style, nothing from anywhere else: text that gets past the escaping still can't act.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_own_host(host: str) -> bool:
    """True when the Host header names this machine's loopback, whatever the port (a tunnel may change it).

    A page elsewhere whose name is rebound to 127.0.0.1 sends its own name here, and is refused.
    """
    name, colon, port = host.partition(":")
    return name.lower() in _HOSTS and (not colon or (port.isascii() and port.isdigit()))


class Guard:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # no web sockets, no lifespan
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        hosts = Headers(scope=scope).getlist("host")
        if len(hosts) != 1 or not is_own_host(hosts[0]):
            refusal = PlainTextResponse("This page answers to 127.0.0.1 and localhost only.\n", status_code=421)
            await refusal(scope, receive, send_guarded)
        elif scope["method"] not in _METHODS:
            await PlainTextResponse("This page can only be read.\n", 405)(scope, receive, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)
