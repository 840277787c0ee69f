"""Asks the archives, in a thread of its own, how many images a study has."""

import queue
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydicom.uid import UID

from hilum.domain.errors import HilumError
from hilum.domain.identity import study_key
from hilum.ports.clock import Clock
from hilum.ports.counts import Expected
from hilum.runtime.logs import Log
from hilum_listener.handlers.archive import Archive, Held

_LOG = Log("hilum.listener.assemble")
_REMEMBERED = 10_000
_OTHER_IMAGES = frozenset({"Enhanced US Volume Storage", "Parametric Map Storage"})
"""All other classes of PS3.6 A whose instances are images have "Image Storage" in their names."""


@dataclass(frozen=True, slots=True)
class _Answer:
    asked_at: datetime
    count: int | None


class ArchiveCounts:
    """An `ExpectedCounts`: being asked for a study is what makes it ask the archives about it.

    The largest count of any archive that answered is the one that counts: each may hold a part only.
    """

    def __init__(self, archives: Sequence[Archive], clock: Clock) -> None:
        self._archives = archives
        self._clock = clock
        self._lock = threading.Lock()
        self._answers: dict[str, _Answer] = {}
        self._waiting: set[str] = set()
        self._news: set[str] = set()
        self._questions: queue.SimpleQueue[str] = queue.SimpleQueue()

    def start(self) -> None:
        threading.Thread(target=self._run, name="archive-counts", daemon=True).start()

    def expected(self, study_instance_uid: str, *, since: datetime) -> Expected:
        with self._lock:
            answer = self._answers.get(study_instance_uid)
            if answer is not None and answer.asked_at > since:
                return Expected(answer.count)
            if study_instance_uid not in self._waiting:
                self._waiting.add(study_instance_uid)
                self._questions.put(study_instance_uid)
            return Expected(awaited=True)

    def changed(self) -> Iterable[str]:
        with self._lock:
            news, self._news = self._news, set()
        return news

    def _run(self) -> None:
        while True:  # a daemon thread: it holds nothing that the end of the process could break
            self.ask(self._questions.get())

    def ask(self, study_instance_uid: str) -> None:
        """Asks every archive about one study and keeps the answer."""
        with self._lock:
            self._waiting.discard(study_instance_uid)  # an image that comes from now on asks again
        asked_at = self._clock.now()
        counts = []
        for archive in self._archives:
            try:
                counts.append(count_images(archive.instances(study_instance_uid)))
            except HilumError as error:
                _LOG.warning("archive not asked", study=study_key(study_instance_uid), reason=error.reason)
        known = [count for count in counts if count is not None]
        if known:
            _LOG.info("archive counted", study=study_key(study_instance_uid), count=max(known))
        with self._lock:
            while len(self._answers) >= _REMEMBERED:
                del self._answers[next(iter(self._answers))]
            self._answers.pop(study_instance_uid, None)
            self._answers[study_instance_uid] = _Answer(asked_at, max(known, default=None))
            self._news.add(study_instance_uid)


def count_images(held: Sequence[Held]) -> int | None:
    """How many of the instances are images by their SOP class; None when a class is not of the standard."""
    names = [UID(item.sop_class_uid).name for item in held]
    if any(name == item.sop_class_uid for name, item in zip(names, held, strict=True)):
        return None
    return sum("Image Storage" in name or name in _OTHER_IMAGES for name in names)
