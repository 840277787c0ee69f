"""`python -m hilum_console --data DIR --port N [--config FILE]`: the page on 127.0.0.1, until SIGTERM."""

import argparse
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from hilum.adapters.instances import open_instances
from hilum.adapters.live import open_live
from hilum.adapters.sql.clock import clock_of
from hilum.adapters.sql.database import open_state
from hilum.ports.live import Live
from hilum.runtime import logs
from hilum.runtime.cluster import SecretMissing
from hilum.runtime.config import ConfigError, load
from hilum.runtime.lifecycle import stop_on_signals, stop_with_parent
from hilum_console.app import create
from hilum_console.pictures import Pictures
from hilum_console.settings import LOOPBACK, Settings

_DRAIN_S = 3


class _Server(uvicorn.Server):
    """Stops when the event says so; the signals belong to `hilum.runtime.lifecycle`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    logs.configure("console")
    log = logs.Log("hilum.console")
    try:
        site = load(options.config)
        engine = open_state(options.data, site.cluster, application="hilum-console")
        store = open_instances(options.data, site.cluster)
        live = open_live(engine, options.data, site.cluster)
    except (ConfigError, SecretMissing) as error:
        print(error, file=sys.stderr)
        return 2
    settings = Settings.of(site, data=options.data, port=options.port)
    stop = stop_on_signals()
    stop_with_parent(stop)
    (settings.data / "run").mkdir(parents=True, exist_ok=True)
    try:
        bound = _bind(settings.port)
    except OSError as error:
        print(f"port {settings.port} of {LOOPBACK} can't be used: {error.strerror}", file=sys.stderr)
        return 2
    port: int = bound.getsockname()[1]
    pictures = Pictures(store)
    pictures.start()
    server = _server(create(settings, engine, pictures, clock_of(engine), live))
    threading.Thread(target=_stop_server, args=(stop, live, server), name="stop-watch", daemon=True).start()
    port_file = settings.data / "run" / "console.port"
    _write(port_file, f"{port}\n")
    log.info("listening", address=f"http://{LOOPBACK}:{port}/", port=port)
    try:
        server.run(sockets=[bound])
    finally:
        port_file.unlink(missing_ok=True)
        pictures.close()
        engine.dispose()
    log.info("stopped")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m hilum_console", description="The page with the reading worklist.")
    parser.add_argument("--data", type=Path, required=True, help="the folder with hilum.db and spool/")
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one; run/console.port says which")
    parser.add_argument("--host", default=LOOPBACK, help="127.0.0.1 and nothing else: the page has no log-in")
    parser.add_argument("--config", type=Path, help="hilum.toml")
    options = parser.parse_args(arguments)
    if options.host != LOOPBACK:
        parser.error(f"--host {options.host}: the page has no log-in, so it is served on {LOOPBACK} only")
    if not 0 <= options.port <= 65535:
        parser.error(f"--port {options.port}: a port is 0 to 65535")
    return options


def _server(app: ASGIApp) -> _Server:
    """Quiet about requests: their paths hold study UIDs."""
    return _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=_DRAIN_S,
        )
    )


def _bind(port: int) -> socket.socket:
    # with the protocol named, asyncio turns Nagle's algorithm off on what it accepts; an answer goes out in two pieces
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((LOOPBACK, port))
    bound.listen(128)  # before the port is written down, so that who reads it can connect
    return bound


def _write(path: Path, text: str) -> None:
    """In one step: a reader sees the whole file or none."""
    draft = path.with_suffix(".draft")
    draft.write_text(text, encoding="ascii")
    os.replace(draft, path)


def _stop_server(stop: threading.Event, live: Live, server: uvicorn.Server) -> None:
    stop.wait()
    live.close()  # or the streams of open pages would have to be cut off
    server.should_exit = True


if __name__ == "__main__":
    raise SystemExit(main())
