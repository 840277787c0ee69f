"""Starting and stopping a service process."""

import os
import signal
import socket
import threading
from pathlib import Path


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set. Loops watch it and drain. To be called by the main thread.

    The handler itself does nothing: a Python handler runs in the main thread, which may just then hold the event's
    own lock (setting it would wait for ever) or sit in a lock that another thread's signal doesn't interrupt. The
    interpreter writes the signal's number to a pipe at once, whatever the main thread does, and a thread reads it.
    """
    stop = threading.Event()
    receiving, sending = socket.socketpair()
    sending.setblocking(False)
    signal.set_wakeup_fd(sending.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: None)

    def watch() -> None:
        with sending:  # keeps it open: the interpreter has its number only
            while True:
                if not {signal.SIGTERM, signal.SIGINT}.isdisjoint(receiving.recv(64)):
                    stop.set()

    threading.Thread(target=watch, name="signals", daemon=True).start()
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
