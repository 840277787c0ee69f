"""One receiving process per data folder, and where others find its port."""

import fcntl
import os
from pathlib import Path

from hilum_listener.handlers.journal import sync_folder


class AlreadyRunning(Exception):
    """Another receiving process has this data folder."""


def lock(folder: Path) -> int:
    """Takes the lock for as long as the process lives; returns its descriptor.

    Raises:
        AlreadyRunning: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fd = os.open(folder / "scp.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise AlreadyRunning("another receiving process has this data folder") from error
    return fd


def publish_port(folder: Path, port: int) -> None:
    """Writes `scp.port`, whole or not at all."""
    temporary = folder / "scp.port.part"
    temporary.write_text(f"{port}\n")
    temporary.rename(folder / "scp.port")
    sync_folder(folder)
