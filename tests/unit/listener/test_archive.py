"""What an archive is asked, and what its answers are taken for."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import pytest

from hilum.domain.errors import Retry
from hilum.ports.counts import Expected
from hilum.testing.clock import SetClock
from hilum_listener.handlers.archive import (
    Arrivals,
    EarlierStudy,
    Held,
    Outcome,
    PriorLimits,
    missing,
    relevant_priors,
)
from hilum_listener.transport.archive_counts import ArchiveCounts, count_images

CR, SR, GSPS = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("1", "88.34", "11.1"))
PRIVATE = "1.3.9"
START = datetime(2026, 11, 24, 12, tzinfo=UTC)
TODAY = date(2026, 11, 24)
LIMITS = PriorLimits(studies=2, age_days=365, instances=500)


class Shelf:
    """An archive that holds what the test puts there, or is away."""

    def __init__(self) -> None:
        self.held: list[Held] = []
        self.away = False

    def instances(self, study_instance_uid: str) -> Sequence[Held]:
        if self.away:
            raise Retry("archive shelf: no association")
        return self.held

    def earlier(self, patient_id: str, issuer: str) -> Sequence[EarlierStudy]:
        return ()

    def fetch(self, study_instance_uid: str, wanted: Sequence[Held], arrivals: Arrivals) -> Outcome:
        return Outcome(0, len(wanted))


def image(number: int, sop_class: str = CR) -> Held:
    return Held("1.2.3", f"1.2.3.{number}", sop_class)


def prior(uid: str, days: int, *, modality: str = "CR", part: str = "CHEST", instances: int = 2) -> EarlierStudy:
    parts = frozenset({part} if part else ())
    return EarlierStudy(uid, TODAY - timedelta(days=days), frozenset({modality}), parts, instances)


def chosen(*candidates: EarlierStudy) -> list[str]:
    found = relevant_priors(
        candidates,
        current_uid="1.1",
        current_date=TODAY,
        modalities=frozenset({"CR"}),
        body_parts=frozenset({"CHEST"}),
        limits=LIMITS,
    )
    return [study.study_instance_uid for study in found]


def test_priors_are_the_newest_of_the_same_modality_and_body_part_within_the_limits() -> None:
    assert chosen(prior("1.5", 90), prior("1.3", 20), prior("1.4", 30)) == ["1.3", "1.4"]
    assert chosen(prior("1.6", 10, modality="CT"), prior("1.7", 10, part="FOOT"), prior("1.8", 10, part="")) == ["1.8"]
    assert chosen(prior("1.9", 366), prior("1.10", 365)) == ["1.10"]
    assert chosen(prior("1.11", 5, instances=501), prior("1.12", 5, instances=0)) == []


def test_the_study_itself_a_later_one_and_one_without_a_date_are_no_priors() -> None:
    undated = EarlierStudy("1.13", None, frozenset({"CR"}), frozenset(), 1)
    assert chosen(prior("1.1", 0), prior("1.14", -1), undated) == []
    assert chosen(prior("1.15", 0)) == ["1.15"]


def test_missing_is_what_the_archive_has_and_hilum_has_not() -> None:
    assert missing([image(1), image(2)], frozenset({"1.2.3.1"})) == (image(2),)


@pytest.mark.parametrize(
    ("classes", "count"), [((CR, CR), 2), ((CR, SR, GSPS), 1), ((), 0), ((SR,), 0), ((CR, PRIVATE), None)]
)
def test_an_archive_counts_images_by_their_class(classes: tuple[str, ...], count: int | None) -> None:
    assert count_images([image(number, sop_class) for number, sop_class in enumerate(classes)]) == count


def test_an_answer_counts_until_another_image_comes() -> None:
    clock, shelf = SetClock(START), Shelf()
    counts = ArchiveCounts([shelf], clock)
    shelf.held = [image(1), image(2)]
    assert counts.expected("1.1", since=START) == Expected(awaited=True)
    clock.advance(timedelta(seconds=1))
    counts.ask("1.1")
    assert set(counts.changed()) == {"1.1"}
    assert set(counts.changed()) == set()
    assert counts.expected("1.1", since=START) == Expected(2)
    assert counts.expected("1.1", since=clock.now()) == Expected(awaited=True)
    shelf.held.append(image(3))
    clock.advance(timedelta(seconds=1))
    counts.ask("1.1")
    assert counts.expected("1.1", since=clock.now() - timedelta(seconds=1)) == Expected(3)


def test_an_archive_that_is_away_leaves_the_count_unknown_and_another_ones_counts() -> None:
    clock, away, shelf = SetClock(START), Shelf(), Shelf()
    away.away = True
    shelf.held = [image(1)]
    for archives, count in (([away], None), ([away, shelf], 1)):
        counts = ArchiveCounts(archives, clock)
        clock.advance(timedelta(seconds=1))
        counts.ask("1.1")
        assert counts.expected("1.1", since=START) == Expected(count)
        assert set(counts.changed()) == {"1.1"}
