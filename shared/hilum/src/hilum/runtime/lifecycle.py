"""Starting and stopping a service process."""

import os
import signal
import threading
from pathlib import Path
from types import FrameType


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set. Loops watch it and drain."""
    stop = threading.Event()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return stop


def announce_ready(data: Path, name: str) -> None:
    """Tells the supervisor that this process serves: `run/<name>.ready` holds its process id."""
    run = data / "run"
    run.mkdir(parents=True, exist_ok=True)
    part = run / f".{name}.ready.part"
    part.write_text(str(os.getpid()))
    part.replace(run / f"{name}.ready")


def stop_with_parent(stop: threading.Event, *, interval_s: float = 1.0) -> None:
    """Sets `stop` when the supervisor that started this process is gone, so that nothing runs on unsupervised."""
    parent = os.getppid()

    def watch() -> None:
        while not stop.wait(interval_s):
            if os.getppid() != parent:
                stop.set()

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
