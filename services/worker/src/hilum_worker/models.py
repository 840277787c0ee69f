"""The model that the settings name: in this process, or on model servers."""

import threading

from hilum.ports.model import Model
from hilum_worker import medmo
from hilum_worker.settings import Settings
from hilum_worker.triton.model import connect
from hilum_worker.triton.replica import Patience


def model_of(settings: Settings, stop: threading.Event, *, wait: bool = True) -> Model | None:
    """The model; None when `stop` was set before a server said which model it has.

    Args:
        wait: for a server, where one is needed to know the model.

    Raises:
        hilum_medmo.CheckpointError: the checkpoint can't be used.
        Busy: no server is there, and nobody waits for one.
    """
    if not settings.servers:
        return medmo.load(settings.checkpoint, threads=settings.threads, should_stop=stop.is_set)
    declared = None if settings.digest else medmo.declared(settings.checkpoint)
    patience = Patience(settings.answer.total_seconds(), settings.silence.total_seconds())
    return connect(settings.servers, patience, declared=declared, digest=settings.digest or "", stop=stop, wait=wait)
