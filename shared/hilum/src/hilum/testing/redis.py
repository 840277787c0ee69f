"""A Redis server for tests: on a free port, with a password, in a temporary folder; flushed, killed, paused at will."""

import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from pydantic import SecretStr

from hilum.testing.external import Process, answers, free_port, need


class RedisServer:
    """Keeps nothing on disk, so a killed one comes back empty."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.password = SecretStr(secrets.token_urlsafe(16))
        self._program = need("redis-server", install="redis-server")
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """As in `hilum.toml`: without the password."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def url_with_password(self) -> SecretStr:
        return SecretStr(f"redis://:{self.password.get_secret_value()}@127.0.0.1:{self.port}/0")

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs beside the configuration."""
        return {"HILUM_REDIS_PASSWORD": self.password.get_secret_value()}

    @property
    def process(self) -> Process:
        if self._process is None:
            raise AssertionError("the Redis server is not running")
        return self._process

    def client(self) -> "redis.Redis":
        return redis.Redis(
            host="127.0.0.1", port=self.port, password=self.password.get_secret_value(), socket_timeout=5
        )

    def start(self) -> None:
        """Returns when it accepts connections."""
        configuration = self.folder / "redis.conf"
        configuration.write_text(
            f"bind 127.0.0.1\nport {self.port}\ndir {self.folder}\nsave ''\nappendonly no\ndaemonize no\n"
            f"requirepass {self.password.get_secret_value()}\n"
        )
        self._process = Process([self._program, configuration], log=self.folder / "redis.log")
        self._process.wait_until(lambda: answers(self.port))

    def kill(self) -> None:
        """SIGKILL, as a crash would end it."""
        self.process.kill()
        self._process = None

    def pause(self) -> None:
        """Connections stay open and nothing answers."""
        self.process.popen.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.popen.send_signal(signal.SIGCONT)

    def flush(self) -> None:
        """As an administrator's FLUSHALL."""
        with self.client() as client:
            client.flushall()

    def stop(self) -> None:
        if self._process is not None:
            self.go_on()
            self._process.stop()
            self._process = None


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """A running one, stopped in the end. `folder` is made when it isn't there."""
    folder.mkdir(parents=True, exist_ok=True)
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
