"""The worker's process with a model that follows a rule (hilum.testing.model), for tests that kill it.

Usage: worker_with_a_rule.py DATA GATE ATTEMPTS MAX_JOB_S. While the folder GATE holds a file `closed`, an answer does
not come; the file `asked` there says that one is being waited for. With a file `stuck` there, the model hangs in C and
holds the interpreter's lock, so that no other thread of the process runs.
"""

import ctypes
import sys
import threading
from datetime import timedelta
from pathlib import Path

from hilum.adapters.eventlog import EmbeddedEventLog
from hilum.adapters.folder import FolderInstances
from hilum.adapters.sql.database import database_path, open_database
from hilum.domain.errors import Busy
from hilum.domain.inference import Task
from hilum.ports.clock import SystemClock
from hilum.runtime import logs
from hilum.runtime.lifecycle import stop_on_signals
from hilum.testing.model import FakeModel
from hilum_worker.settings import Settings
from hilum_worker.transport.serve import serve, wait_for_schema


def main(data: Path, gate: Path, attempts: int, max_job_s: float) -> int:
    logs.configure("worker")
    stop = stop_on_signals()

    def wait_at_the_gate(_task: Task) -> None:
        if (gate / "stuck").exists():
            ctypes.PyDLL(None).sleep(600)
        while (gate / "closed").exists():
            (gate / "asked").touch()
            if stop.wait(0.02):
                raise Busy("the worker is stopping")

    settings = Settings(
        data=data,
        checkpoint=data,
        attempts=attempts,
        lease=timedelta(seconds=60),
        max_job=timedelta(seconds=max_job_s),
        first_retry=timedelta(seconds=0.1),
    )
    engine = open_database(database_path(data))
    wait_for_schema(engine, threading.Event())
    store = FolderInstances(settings.data / "spool")
    clock = SystemClock()
    events = EmbeddedEventLog(engine, clock)
    return serve(settings, engine, FakeModel(before=wait_at_the_gate), store, clock, stop, events=events)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
