"""A MedMO that waits a given time and then says the same thing about every image: for capacity and chaos tests.

What it says is that of a scripted model; the queue, the contract and the server in front of it are the real ones.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace

from hilum_medmo.model import Generation, ModelIdentity, Request, Threshold, Timings
from hilum_medmo.testing.scripted import answer

WAITING_IDENTITY = ModelIdentity(
    name="MedMO-Waiting",
    version="1",
    digest=hashlib.sha256(b"waiting").hexdigest(),
    simulation=True,
    disclaimer="A fixed answer for tests, not for patients.",
    labels=("Nodule",),
    thresholds={"Nodule": Threshold(0.5, 0.95)},
    no_finding=("No abnormality detected.",),
    prompts={"locate": "locate", "report": "report"},
)
LOCATE = "Nodule <box>[[100, 200, 300, 400]]</box>"
REPORT = "Findings: a nodule."
QUESTION = "Yes."
_LOOK_S = 0.005


class WaitingMedMO:
    """Waits `wait_s` for each request and answers by its prompt; a request that is given up ends at once."""

    def __init__(self, wait_s: float, *, locate: str = LOCATE, digest: str = WAITING_IDENTITY.digest) -> None:
        self._wait_s = wait_s
        self._texts = {"locate": locate, "report": REPORT}
        self._identity = replace(WAITING_IDENTITY, digest=digest)

    @property
    def identity(self) -> ModelIdentity:
        return self._identity

    def generate(self, request: Request, *, should_stop: Callable[[], bool] | None = None) -> Generation:
        started = time.monotonic()
        stop = should_stop or (lambda: False)
        while (left := started + self._wait_s - time.monotonic()) > 0:
            if stop():
                return answer("", finish="cancelled")
            time.sleep(min(left, _LOOK_S))
        said = answer(self._texts.get(request.prompt, QUESTION), 0.999)
        return replace(said, timings=Timings(0.0, time.monotonic() - started, 0.0))
