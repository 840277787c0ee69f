"""The data folder of one `hilum up`: made, locked, and the ports that go with it looked at before anything starts."""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hilum_standalone.options import Unusable

_ENDING_S = 20.0


def create(data: Path) -> Path:
    """Makes the folder and its parts; the absolute path."""
    data = data.absolute()
    try:
        for part in (data, data / "run", data / "logs"):
            part.mkdir(parents=True, exist_ok=True)
        probe = data / "run" / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise Unusable(f"can't write to {data}: {error.strerror}") from error
    return data


@contextmanager
def locked(data: Path) -> Iterator[int]:
    """Holds the folder for one `hilum up`; gives the lock's descriptor, which the services inherit.

    A lock that the services share is free only when the last of them has ended, so a new start after a crash can't
    run beside the rest of the old one: it waits for them a while.
    """
    descriptor = os.open(data / "run" / "up.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(descriptor, data)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _take(descriptor: int, data: Path) -> None:
    deadline = time.monotonic() + _ENDING_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            owner = os.pread(descriptor, 20, 0).decode("ascii", "replace")
            if is_alive(owner):
                raise Unusable(f"Hilum is already running on {data} (process {owner})") from error
            if time.monotonic() > deadline:
                raise Unusable(f"services of an earlier start still run on {data}: {_left(data)}") from error
        time.sleep(0.1)


def is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (ValueError, ProcessLookupError):
        return False
    return True


def _left(data: Path) -> str:
    alive = [
        f"{name} (process {entry['pid']})" for name, entry in processes(data).items() if is_alive(str(entry["pid"]))
    ]
    return ", ".join(alive) or "unknown processes"


def is_running(data: Path) -> bool:
    """True while a `hilum up` or a service of one holds the folder."""
    try:
        descriptor = os.open(data / "run" / "up.lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def processes(data: Path) -> dict[str, dict[str, int]]:
    """The services of the last start as `run/processes.json` has them: name → pid, restarts."""
    try:
        found: dict[str, dict[str, int]] = json.loads((data / "run" / "processes.json").read_text())
    except (OSError, ValueError):
        return {}
    return found


def pick_port(host: str, port: int, option: str) -> int:
    """The port when it is free (a free one for 0).

    Raises:
        Unusable: something else uses it, or this host can't be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError as error:
            raise Unusable(f"port {port} needs more rights than this user has; choose another with {option}") from error
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Unusable(f"port {port} is in use; choose another with {option}") from error
            raise Unusable(f"can't listen on {host}:{port}: {error.strerror}") from error
        chosen: int = probe.getsockname()[1]
        return chosen


def write_atomically(path: Path, text: str) -> None:
    """Whoever reads the path sees the old text or the new one, never a part.

    Raises:
        OSError: it can't be written; the old text stays.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise
