"""An HTTP server and an MLLP listener on free ports that keep what they get and answer as they are told."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any


@dataclass
class Scripted:
    """What a receiver got, and what it answers to each in turn; the last answer repeats."""

    replies: Sequence[Any]
    got: list[bytes] = field(default_factory=list)

    def take(self, content: bytes) -> Any:
        self.got.append(content)
        return self.replies[min(len(self.got), len(self.replies)) - 1]


@dataclass(frozen=True)
class Listening:
    port: int
    script: Scripted


Receiver = Callable[[Sequence[Any]], Listening]
"""Starts a receiver with its answers."""


@contextmanager
def http_receivers() -> Iterator[Receiver]:
    """Answers are (status, body)."""
    servers: list[ThreadingHTTPServer] = []

    def start(replies: Sequence[Any]) -> Listening:
        script = Scripted(replies)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                status, body = script.take(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                return

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return Listening(server.server_port, script)

    try:
        yield start
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


@contextmanager
def mllp_receivers() -> Iterator[Receiver]:
    """Answers are MSA-1 codes; `late` answers another message first, None closes without an answer."""
    servers: list[ThreadingTCPServer] = []

    def start(replies: Sequence[Any]) -> Listening:
        script = Scripted(replies)

        class Handler(BaseRequestHandler):
            def handle(self) -> None:
                data = b""
                while not data.endswith(b"\x1c\r"):
                    received = self.request.recv(65536)
                    if not received:
                        return
                    data += received
                message = data[1:-2]
                code = script.take(message)
                control = message.split(b"|")[9].decode()
                if code == "late":
                    self.request.sendall(_acknowledgement("AE", "some-other-message"))
                    code = "AA"
                if code is not None:
                    self.request.sendall(_acknowledgement(code, control))

        server = ThreadingTCPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return Listening(server.server_address[1], script)

    try:
        yield start
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def _acknowledgement(code: str, control: str) -> bytes:
    return f"\x0bMSH|^~\\&|RIS||HILUM||2026||ACK|1|P|2.5.1\rMSA|{code}|{control}|said so\r\x1c\r".encode()
