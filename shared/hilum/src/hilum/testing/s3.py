"""An S3 server for tests, versitygw over a folder: on a free port; killed, paused and started again at will."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from hilum.runtime.cluster import Cluster
from hilum.testing.external import Process, Server, answers, free_port, missing

_VERSION = "1.8.0"
REGION = "us-east-1"


class S3Server(Server):
    """Its one bucket is a folder, so tests can look at what it stores and damage it."""

    what = "S3 server"
    bucket = "hilum-test"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.access_key = SecretStr(secrets.token_hex(10))
        self.secret_key = SecretStr(secrets.token_hex(20))
        self._program = _program()
        self.files.mkdir(parents=True, exist_ok=True)

    @property
    def files(self) -> Path:
        """The folder of the bucket: an object's key is its path there."""
        return self.folder / "s3" / self.bucket

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs beside the configuration."""
        return {
            "HILUM_S3_ACCESS_KEY": self.access_key.get_secret_value(),
            "HILUM_S3_SECRET_KEY": self.secret_key.get_secret_value(),
        }

    def cluster(self, *, prefix: str = "instances", database: str = "", redis: str = "") -> Cluster:
        """A `[cluster]` whose instances lie here."""
        return Cluster(
            database=database or "postgresql+psycopg://hilum@127.0.0.1:1/hilum",
            kafka=("127.0.0.1:1",),
            redis=redis or "redis://127.0.0.1:1/0",
            instances=f"s3://{self.bucket}/{prefix}",
            s3_endpoint=self.endpoint,
            s3_region=REGION,
        )

    def start(self) -> None:
        """Returns when it accepts connections."""
        command: list[str | Path] = [self._program, "--port", f"127.0.0.1:{self.port}", "--region", REGION, "--quiet"]
        command += ["--keep-alive", "posix", self.folder / "s3"]
        keys = {
            "ROOT_ACCESS_KEY_ID": self.access_key.get_secret_value(),
            "ROOT_SECRET_ACCESS_KEY": self.secret_key.get_secret_value(),
        }
        process = Process(command, log=self.folder / "versitygw.log", env=keys)
        self._process = process.wait_until(lambda: answers(self.port))


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """A running one, stopped in the end. `folder` is made when it isn't there."""
    folder.mkdir(parents=True, exist_ok=True)
    server = S3Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _program() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    program = cache / "hilum" / f"versitygw-{_VERSION}" / "versitygw"
    if not program.exists():
        missing("versitygw", "tests/tools/install-versitygw")
    return program
