"""One receiving process of a kind per data folder, and where others find its port."""

import fcntl
import os
from pathlib import Path

from hilum_listener.handlers.journal import sync_folder


class AlreadyRunning(Exception):
    """Another receiving process has this data folder."""


def lock(folder: Path, name: str = "scp") -> int:
    """Takes the lock of the receiver `name` for as long as the process lives; returns its descriptor.

    Raises:
        AlreadyRunning: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fd = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise AlreadyRunning("another receiving process has this data folder") from error
    return fd


def publish_port(folder: Path, port: int, name: str = "scp") -> None:
    """Writes `NAME.port`, whole or not at all."""
    temporary = folder / f"{name}.port.part"
    temporary.write_text(f"{port}\n")
    temporary.rename(folder / f"{name}.port")
    sync_folder(folder)
