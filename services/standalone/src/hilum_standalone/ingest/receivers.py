"""Programs that receive, each started on an empty folder for each measurement."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

_PDU = "131072"
_PATIENCE_S = 30.0
_EMPTIED_AT_ONCE = 50
_PROMPT = {"TCP_NODELAY": "1"}
"""What DCMTK's network code looks for, which Orthanc uses too."""

NO_SYNC = """
int fsync(int fd) { (void)fd; return 0; }
int fdatasync(int fd) { (void)fd; return 0; }
"""
"""Preloaded where durability is switched off for a comparison: the product has no such switch."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """`command` gets the folder and the port."""

    name: str
    command: Callable[[Path, int], list[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    called_ae: str = "HILUM"

    @contextmanager
    def running(self, folder: Path) -> Iterator[int]:
        """Starts it on a free port, which it yields, in a new folder; stops it and empties what it stored."""
        folder.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        with (folder.parent / f"{folder.name}.log").open("wb") as log:
            process = subprocess.Popen(
                self.command(folder, port),
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
            try:
                _wait_until_open(process, port)
                yield port
            finally:
                process.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(15)
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        _empty(folder)


def _wait_until_open(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = monotonic() + _PATIENCE_S
    while monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not listen")


def _empty(folder: Path) -> None:
    """Gives the space back, and leaves the names: for minutes after files were deleted ext4 is several times slower at
    making new ones, whoever makes them, since it passes over each inode that was freed lately.
    """
    for number, path in enumerate(folder.rglob("*")):
        if path.is_file():
            os.truncate(path, 0)
        if number % _EMPTIED_AT_ONCE == 0:
            sleep(0.005)


def hilum(*, no_sync: Path | None = None) -> Receiver:
    def command(folder: Path, port: int) -> list[str]:
        return [sys.executable, "-m", "hilum_listener", "scp", "--data", str(folder), "--port", str(port)]

    if no_sync is None:
        return Receiver("Hilum", command)
    return Receiver("Hilum, no syncs", command, {"LD_PRELOAD": str(no_sync)})


def sink(program: Path) -> Receiver:
    """The C sink with the same syncs: file, folder, journal."""
    return Receiver("C sink, durable", lambda folder, port: [str(program), str(port), _PDU, "durable", str(folder)])


def orthanc(*, prompt: bool) -> Receiver:
    """`prompt`: with TCP_NODELAY, without which each of its responses waits 40 ms for an acknowledgement."""

    def command(folder: Path, port: int) -> list[str]:
        (folder / "store").mkdir()
        settings = {
            "DicomPort": port,
            "HttpServerEnabled": False,
            "StorageDirectory": str(folder / "store"),
            "IndexDirectory": str(folder / "store"),
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        return ["Orthanc", str(folder / "orthanc.json")]

    return Receiver("Orthanc, TCP_NODELAY" if prompt else "Orthanc, defaults", command, _PROMPT if prompt else {})


def storescp(*, tuned: bool = False, prompt: bool = True) -> Receiver:
    """`prompt` as in `orthanc`; `tuned`: with the options that are fastest here."""

    def command(folder: Path, port: int) -> list[str]:
        options = ["--fork", "+B", "-pdu", _PDU] if tuned else []
        return ["storescp", *options, "-od", str(folder), str(port)]

    how = "best-tuned" if tuned else "TCP_NODELAY" if prompt else "defaults"
    return Receiver(f"storescp, {how}", command, _PROMPT if prompt else {})
