"""For tests: an archive that holds what the test puts there, and the fetch role on a clock that they set."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import sqlalchemy as sa
from pydicom import Dataset
from sqlalchemy import Engine

from hilum.adapters.folder import FolderInstances
from hilum.adapters.sql.database import reading
from hilum.adapters.sql.tables import instances, retrievals
from hilum.domain.errors import HilumError
from hilum.domain.identity import derive_uid
from hilum.runtime.config import RuleConfig
from hilum.testing.dicom_files import chest_image, write
from hilum_listener.handlers.archive import Arrivals, EarlierStudy, Fetched, Held, Outcome
from hilum_listener.handlers.fetch import Fetcher
from hilum_listener.handlers.fetch_bring import Bringer, Source
from hilum_listener.handlers.journal import JournalWriter
from hilum_listener.handlers.spool import Spool
from hilum_listener.settings import FetchSettings, Places
from hilum_listener.testing import EXPLICIT, Listener, encoded_dataset

_BEGUN = itertools.count(1)
SMALL = np.arange(64, dtype=np.uint16).reshape(8, 8)


@dataclass
class Shelf:
    """An archive in memory. `trouble` is raised by whatever is asked next; `withheld` are instances that it names and
    doesn't send; `also` is sent beside what was asked for. `moves_as`: it sends to the front door under this AE title.
    `tells_of`: how many images it says that an earlier study has, instead of how many it has."""

    listener: Listener
    held: list[Dataset] = field(default_factory=list)
    trouble: HilumError | None = None
    withheld: set[str] = field(default_factory=set)
    also: list[Dataset] = field(default_factory=list)
    before_sending: Callable[[], None] = lambda: None
    moves_as: str = ""
    tells_of: int = 0
    asked: list[str] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    def put(self, study: str, *names: str, **attributes: Any) -> list[Dataset]:
        """Images of a study, of the given names."""
        images = [chest_image(SMALL, study=study, name=name, **attributes) for name in names]
        self.held += images
        return images

    def instances(self, study_instance_uid: str) -> Sequence[Held]:
        self._ask("instances")
        return [
            Held(str(image.SeriesInstanceUID), str(image.SOPInstanceUID), str(image.SOPClassUID))
            for image in self.held
            if image.StudyInstanceUID == study_instance_uid
        ]

    def earlier(self, patient_id: str, issuer: str) -> Sequence[EarlierStudy]:
        self._ask("earlier")
        studies: dict[str, list[Dataset]] = {}
        for image in self.held:
            studies.setdefault(str(image.StudyInstanceUID), []).append(image)
        return [
            EarlierStudy(
                uid,
                datetime.strptime(images[0].get("StudyDate", "20251103"), "%Y%m%d").date(),  # noqa: DTZ007
                frozenset(str(image.Modality) for image in images),
                frozenset(str(image.BodyPartExamined) for image in images),
                self.tells_of or len(images),
            )
            for uid, images in studies.items()
        ]

    def fetch(self, study_instance_uid: str, wanted: Sequence[Held], arrivals: Arrivals) -> Outcome:
        self._ask("fetch")
        self.before_sending()
        uids = {item.sop_instance_uid for item in wanted} - self.withheld
        sent = [image for image in self.held if image.SOPInstanceUID in uids] + self.also
        for image in sent:
            if self.moves_as:
                self.listener.receive(image, calling=self.moves_as)
            else:
                self.statuses.append(arrivals.take(self.fetched(image)))
        return Outcome(len(sent), len(wanted) - len(uids))

    def fetched(self, image: Dataset) -> Fetched:
        path = write(self.listener.places.data / "held.dcm", image)
        content = encoded_dataset(path)
        pieces = (content[start : start + 100] for start in range(0, len(content), 100))
        return Fetched(str(image.SOPClassUID), str(image.SOPInstanceUID), EXPLICIT, pieces)

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        trouble, self.trouble = self.trouble, None
        if trouble is not None:
            raise trouble


class Fetching:
    """The fetch role beside a listener; while it waits, the listener folds."""

    def __init__(self, listener: Listener, *shelves: Shelf, settings: FetchSettings | None = None) -> None:
        self.listener = listener
        self.places = Places(listener.places.data, incoming_name="incoming-fetch")
        self.settings = settings or FetchSettings()
        self.fetcher = self.new(shelves)

    def new(self, shelves: Sequence[Shelf]) -> Fetcher:
        listener = self.listener
        numbers = itertools.count(1)
        sources = [Source(f"shelf-{next(numbers)}", shelf, "PACS", shelf.moves_as) for shelf in shelves]
        spool = Spool(self.places, min_free_bytes=0)
        begun = listener.clock.now() + timedelta(microseconds=next(_BEGUN))  # the name of a process's journals
        journal = JournalWriter(self.places.journal, started_at=begun)
        engine: Engine = listener.engine
        bringer = Bringer(engine, listener.clock, self.settings, spool, journal, self.pause)
        return Fetcher(engine, listener.clock, sources, self.settings, FolderInstances(self.places.spool), bringer)

    def pause(self, _seconds: float) -> bool:
        self.listener.step()
        return False

    def run(self) -> None:
        """Plans, and does everything that is due now."""
        self.fetcher.plan()
        while self.fetcher.step():
            pass
        self.listener.step()

    def rows(self) -> list[Any]:
        with reading(self.listener.engine) as connection:
            return list(connection.execute(sa.select(retrievals).order_by("kind", "target_uid")))

    def states(self) -> list[tuple[str, str, int]]:
        """Kind, state and attempts of each retrieval."""
        return [(row.kind, row.state, row.attempts) for row in self.rows()]


def asks_for_priors(studies: int = 2, *, wait_s: float = 30.0) -> RuleConfig:
    """A rule for chest radiographs that wants earlier ones."""
    return RuleConfig(
        name="chest", modalities=("CR",), body_parts=("CHEST",), priors=studies, priors_within_days=365,
        priors_wait_s=wait_s,
    )  # fmt: skip


def with_priors(listener: Listener, rule: RuleConfig) -> FetchSettings:
    """Makes the listener's assembler wait for earlier studies; the fetch role's settings with the same rule."""
    rules = (rule.to_domain(),)
    listener.settings = replace(listener.settings, prior_rules=rules)
    listener.assembler = listener.new_assembler()
    return FetchSettings(prior_rules=rules)


def study_uid(name: str) -> str:
    return derive_uid("test-study", name)


def reasons(listener: Listener) -> list[tuple[str, int, str]]:
    """Study (by its name in the tests), number of images and reason of each study.ready, oldest first."""
    names = {study_uid(name): name for name in ("study", "last-year", "older")}
    return [
        (names[m.study_instance_uid], sum(len(s.instances) for s in m.series), m.complete_reason)
        for m in listener.ready()
    ]


def here(listener: Listener, study: str) -> int:
    """How many objects of a study are in the index."""
    return sum(row.study_instance_uid == study_uid(study) for row in listener.rows(instances))
