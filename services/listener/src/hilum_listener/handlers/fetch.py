"""The fetch role: brings missing images and earlier studies from the archives.

It never holds a study up: what it can't get is said, and the study goes on by its own rules.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.dicom.header import read_header
from hilum.adapters.sql.database import reading, transaction
from hilum.adapters.sql.tables import studies
from hilum.domain.errors import Busy, HilumError, Reject, Retry
from hilum.domain.identity import study_key
from hilum.domain.routing import body_parts_of, rule_of
from hilum.domain.study import holds_images
from hilum.ports.clock import Clock
from hilum.ports.instances import InstanceStore
from hilum.runtime.logs import Log
from hilum_listener.handlers import retrieval
from hilum_listener.handlers.archive import EarlierStudy, Held, PriorLimits, missing, relevant_priors
from hilum_listener.handlers.fetch_bring import Bringer, Lost, Short, Source
from hilum_listener.handlers.fetch_plan import Plan, files_of, indexed, listed_images, quarantined
from hilum_listener.handlers.part10 import is_uid
from hilum_listener.handlers.retrieval import Claimed, Kind, State
from hilum_listener.handlers.revisions import draft
from hilum_listener.settings import FetchSettings

_LOG = Log("hilum.listener.fetch")
_LOOK_S, _PLAN_S = 0.25, 1.0


@dataclass(frozen=True, slots=True)
class Result:
    """How an attempt ended."""

    reason: str
    came: int = 0
    priors: Sequence[tuple[EarlierStudy, str]] = ()
    """Earlier studies to fetch, each with the archive that has it."""


class Fetcher:
    """Claims by lease, so that what a killed one was at is taken up by the next."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        sources: Sequence[Source],
        settings: FetchSettings,
        store: InstanceStore,
        bringer: Bringer,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._sources: Mapping[str, Source] = {source.name: source for source in sources}
        self._settings = settings
        self._store = store
        self._plan = Plan(engine, settings)
        self._bringer = bringer

    def run(self, stop: threading.Event) -> None:
        planned_s = 0.0
        while not stop.is_set():
            try:
                if planned_s <= 0:
                    self._plan.step(self._clock.now())
                    planned_s = _PLAN_S
                if self.step():
                    planned_s = 0.0
                    continue
            except Busy as error:
                _LOG.warning("waiting", reason=error.reason)
            planned_s -= _LOOK_S
            stop.wait(_LOOK_S)

    def plan(self) -> int:
        """Looks once what is to be asked for."""
        return self._plan.step(self._clock.now())

    def step(self) -> bool:
        """One attempt at what is due; False when nothing is.

        Raises:
            Busy: the database is away.
        """
        settings = self._settings
        claimed = retrieval.claim(self._engine, now=self._clock.now(), lease=settings.lease, attempts=settings.attempts)
        if claimed is None:
            return False
        try:
            result = self._attempt(claimed)
        except Lost:
            _LOG.warning("retrieval lost to another process", study=study_key(claimed.study))
        except HilumError as error:
            if isinstance(error, Busy):
                raise
            self._trouble(claimed, error)
        else:
            self._done(claimed, result)
        return True

    def _attempt(self, claimed: Claimed) -> Result:
        match claimed.kind:
            case Kind.MISSING:
                return self._missing(claimed)
            case Kind.SEARCH:
                return self._search(claimed)
            case Kind.PRIOR:
                return self._prior(claimed)

    def _done(self, claimed: Claimed, result: Result) -> None:
        now = self._clock.now()
        with transaction(self._engine) as connection:
            ours = retrieval.settle(
                connection, claimed, State.DONE, reason=result.reason, now=now, due_at=now, came=result.came
            )
            for prior, archive in result.priors if ours else ():
                day = prior.study_date.strftime("%Y%m%d") if prior.study_date else ""
                retrieval.ask(
                    connection,
                    claimed.study,
                    Kind.PRIOR,
                    prior.study_instance_uid,
                    now=now,
                    archive=archive,
                    study_date=day,
                )
        _LOG.info(f"{claimed.kind} fetched", study=study_key(claimed.study), count=result.came, reason=result.reason)

    def _trouble(self, claimed: Claimed, error: HilumError) -> None:
        """Tried again with growing pauses, up to the limit; refused at once what can't get better."""
        now, settings = self._clock.now(), self._settings
        again = isinstance(error, Retry) and claimed.attempts < settings.attempts
        state = State.ASKED if again else State.FAILED
        due_at = now + settings.pause(claimed.attempts) if again else now
        came = error.came if isinstance(error, Short) else 0
        with transaction(self._engine) as connection:
            retrieval.settle(connection, claimed, state, reason=error.reason, now=now, due_at=due_at, came=came)
        _LOG.warning(
            f"{claimed.kind} not fetched",
            study=study_key(claimed.study),
            attempts=claimed.attempts,
            state=state.value,
            reason=error.reason,
        )

    # --- missing images -----------------------------------------------------------------------------------------------

    def _missing(self, claimed: Claimed) -> Result:
        """What the archives and the lists name of the study, and what of it isn't here."""
        with reading(self._engine) as connection:
            here = indexed(connection, claimed.target)
            listed = listed_images(connection, claimed.target) - here
        troubles: list[HilumError] = []
        wanted: dict[str, list[Held]] = {}
        taken: set[str] = set()
        for source in self._sources.values():
            try:
                held = missing(_images(source.archive.instances(claimed.target)), here | taken)
            except HilumError as error:
                troubles.append(error)
                continue
            wanted[source.name] = list(held)
            taken.update(item.sop_instance_uid for item in held)
        with reading(self._engine) as connection:
            refused = quarantined(connection, sorted(taken))
        taken -= refused
        self._check_size(len(here) + len(taken))
        came = 0
        for name, items in wanted.items():
            items = [item for item in items if item.sop_instance_uid not in refused]
            if items:
                try:
                    came += self._bringer.bring(claimed, self._sources[name], items)
                except Short as error:
                    came += error.came
                    troubles.append(error)
        unknown = len(listed - taken - refused)
        if troubles and (came < len(taken) or unknown or not taken):
            raise _worst(troubles, came)
        if unknown:
            raise Short(
                f"{unknown} of the images that are listed {'is' if unknown == 1 else 'are'} in no archive", came
            )
        return Result(f"{came} missing {'image' if came == 1 else 'images'} came" if came else "none is missing", came)

    # --- earlier studies ----------------------------------------------------------------------------------------------

    def _search(self, claimed: Claimed) -> Result:
        now = self._clock.now()
        with reading(self._engine) as connection:
            study: Any = connection.execute(
                sa.select(studies).where(studies.c.study_instance_uid == claimed.study)
            ).one_or_none()
            if study is None:
                raise Reject("the study is not here any more")
            revision = draft(connection, study, reason="", now=now)
        rule = rule_of(revision, self._settings.prior_rules)
        if rule is None or rule.priors is None:
            return Result("no rule asks for earlier studies any more")
        if study.conflict:
            raise Reject("the images of the study disagree on whose they are")
        patient = study.header["patient"]
        if not patient["patient_id"]:
            raise Reject("the study names no patient ID")
        modalities, parts = body_parts_of(revision, rule)
        found, troubles = self._candidates(patient["patient_id"], patient["issuer"], claimed.study)
        if troubles and (claimed.attempts < self._settings.attempts or len(troubles) == len(self._sources)):
            raise _worst(troubles, 0)
        chosen = relevant_priors(
            [candidate for candidate, _ in found.values()],
            current_uid=claimed.study,
            current_date=_day(study.header["study_date"]) or study.first_received_at.date(),
            modalities=modalities,
            body_parts=parts,
            limits=PriorLimits(rule.priors.studies, rule.priors.within_days, self._settings.max_instances),
        )
        priors = [found[one.study_instance_uid] for one in chosen]
        words = f"{len(chosen)} of {len(found)} earlier studies {'fits' if len(chosen) == 1 else 'fit'}"
        return Result(f"{words}; {troubles[0].reason}" if troubles else words, priors=priors)

    def _candidates(
        self, patient_id: str, issuer: str, study: str
    ) -> tuple[dict[str, tuple[EarlierStudy, str]], list[HilumError]]:
        """By UID, each with the archive that holds most of it."""
        found: dict[str, tuple[EarlierStudy, str]] = {}
        troubles: list[HilumError] = []
        for source in self._sources.values():
            try:
                for one in source.archive.earlier(patient_id, issuer):
                    uid = one.study_instance_uid
                    if is_uid(uid) and uid != study and (uid not in found or found[uid][0].instances < one.instances):
                        found[uid] = (one, source.name)
            except HilumError as error:
                troubles.append(error)
        return found, troubles

    def _prior(self, claimed: Claimed) -> Result:
        source = self._sources.get(claimed.archive)
        if source is None:
            raise Reject(f"archive {claimed.archive} is not configured any more")
        held = _images(source.archive.instances(claimed.target))
        if not held:
            raise Reject(f"archive {source.name}: the study has no image any more")
        self._check_size(len(held))
        with reading(self._engine) as connection:
            here = indexed(connection, claimed.target)
            refused = quarantined(connection, [item.sop_instance_uid for item in held])
        wanted = [item for item in missing(held, here) if item.sop_instance_uid not in refused]
        came = self._bringer.bring(claimed, source, wanted) if wanted else 0
        self._check_patient(claimed)
        return Result(f"{len(held)} {'image is' if len(held) == 1 else 'images are'} here", came)

    def _check_patient(self, claimed: Claimed) -> None:
        """What came must be of the patient whose study asked for it; an archive may have matched loosely."""
        with reading(self._engine) as connection:
            header = connection.execute(
                sa.select(studies.c.header).where(studies.c.study_instance_uid == claimed.study)
            ).scalar_one()
            uris = files_of(connection, claimed.target)
        ours = header["patient"]
        try:
            found = [read_header(self._store.path(uri)).study.patient for uri in uris]
        except OSError as error:
            raise Retry(f"a fetched file can't be read ({type(error).__name__})") from error
        for patient in found:
            if patient.patient_id != ours["patient_id"] or (
                patient.issuer and ours["issuer"] and patient.issuer != ours["issuer"]
            ):
                raise Reject("what the archive sent is another patient's")

    def _check_size(self, count: int) -> None:
        if count > self._settings.max_instances:
            raise Reject(f"the study has {count} images, more than the {self._settings.max_instances} of [fetch]")


def _images(held: Sequence[Held]) -> list[Held]:
    """Those that are images, each once, by UIDs that are some: an archive's word is not believed."""
    named = {
        item.sop_instance_uid: item
        for item in held
        if is_uid(item.sop_instance_uid) and is_uid(item.series_instance_uid) and holds_images(item.sop_class_uid)
    }
    return list(named.values())


def _worst(troubles: Sequence[HilumError], came: int) -> HilumError:
    """One that may get better, if there is one."""
    error = next((one for one in troubles if isinstance(one, Retry)), troubles[0])
    return Short(error.reason, came) if isinstance(error, Retry) else error


def _day(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y%m%d").date()  # noqa: DTZ007  # a DICOM date has no zone
    except ValueError:
        return None
