"""A Redis server for tests: on a free port, with a password, in a temporary folder; flushed, killed, paused at will."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from pydantic import SecretStr

from hilum.testing.external import Process, Server, answers, free_port, need


class RedisServer(Server):
    """Keeps nothing on disk, so a killed one comes back empty."""

    what = "Redis server"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.password = SecretStr(secrets.token_urlsafe(16))
        self._program = need("redis-server", install="redis-server")

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

    def flush(self) -> None:
        """As an administrator's FLUSHALL."""
        with self.client() as client:
            client.flushall()


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
