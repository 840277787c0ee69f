"""How the page words states, and what its guard lets through."""

from datetime import UTC, datetime, timedelta

import pytest

from hilum.adapters.sql.ledger_values import DeliveryRow, RevisionRow, RouteRow
from hilum.domain.identity import Patient
from hilum.domain.results import AiState, DeliveryState, Format, StudyState
from hilum_console.guard import is_own_host
from hilum_console.timeline import steps
from hilum_console.words import clean, delivery_badge, duration, person, state_badge, without_result

START = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
STATES = (*AiState, *StudyState)


def test_each_state_has_its_own_mark_and_words_so_that_colour_is_never_needed() -> None:
    assert len({state_badge(state).mark for state in STATES}) == len(STATES)
    assert len({state_badge(state).text for state in STATES}) == len(STATES)
    assert len({delivery_badge(state).text for state in DeliveryState}) == len(DeliveryState)


@pytest.mark.parametrize("state", [s for s in STATES if s not in (AiState.POSITIVE, AiState.NEGATIVE)])
def test_a_study_that_the_ai_did_not_answer_never_reads_as_one_without_findings(state: AiState | StudyState) -> None:
    told = f"{state_badge(state).text} {without_result(state, 'the reason')}"
    assert "no finding" not in told.lower()
    assert "the reason" in told


def test_a_study_that_the_ai_was_not_made_for_says_that_it_did_not_run_and_why() -> None:
    assert without_result(AiState.NOT_APPLICABLE, "modality CT is not CR/DX") == (
        "AI did not run: modality CT is not CR/DX"
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Buc^Jérôme", "Buc, Jérôme"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou (山田, 太郎 / やまだ, たろう)"),
        ("=山田^太郎", "山田, 太郎"),
        ("Adams^John^Robert Quincy^Rev.^B.A.", "Adams, John Robert Quincy"),
        ("", "no name"),
        ("^^^^", "no name"),
    ],
)
def test_a_person_name_is_shown_family_first(name: str, shown: str) -> None:
    assert person(Patient(name=name)) == shown


def test_characters_that_hide_or_reverse_text_are_not_printed() -> None:
    assert clean("a\u202eb\x00c\u2066d\n\te") == "abcd\n\te"


@pytest.mark.parametrize(
    ("seconds", "words"), [(-5, "0 s"), (42, "42 s"), (420, "7 min"), (11_100, "3 h 05"), (200_000, "2 d 7 h")]
)
def test_a_wait_is_said_in_its_largest_useful_unit(seconds: float, words: str) -> None:
    assert duration(timedelta(seconds=seconds)) == words


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8080", "localhost", "LOCALHOST:9", "localhost:8080"])
def test_the_loopback_s_own_names_are_let_in(host: str) -> None:
    assert is_own_host(host)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", "", "127.0.0.1:80:80",
     "127.0.0.1:x", "10.0.0.1", "0.0.0.0", "user@127.0.0.1", "127.0.0.1 "],
)  # fmt: skip
def test_any_other_name_is_refused(host: str) -> None:
    assert not is_own_host(host)


def _revision(*deliveries: DeliveryState, lane: str = "routine") -> RevisionRow:
    sent = tuple(
        DeliveryRow(1, f"d{n}", Format.SR, state, "", START, START + timedelta(seconds=9 + n), START, ())
        if state is DeliveryState.ACCEPTED
        else DeliveryRow(1, f"d{n}", Format.SR, state, "", START, None, START, ())
        for n, state in enumerate(deliveries)
    )
    return RevisionRow(
        revision=1,
        state=AiState.NOT_APPLICABLE,
        reason="modality CT",
        instance_count=2,
        last_received_at=START,
        completed_at=START + timedelta(seconds=5),
        complete_reason="no image for 5 s",
        ended_at=START + timedelta(seconds=5.5),
        route=RouteRow(lane, "", "modality CT", START + timedelta(seconds=5.25)),
        job=None,
        result=None,
        deliveries=sent,
    )


def test_a_revision_that_no_rule_takes_ends_without_a_model_step() -> None:
    found = steps(_revision(lane=""))
    assert [(s.name, s.took_s, s.since_image_s) for s in found] == [
        ("received", None, 0.0),
        ("complete", 5.0, 5.0),
        ("routed", 0.25, 5.25),
        ("ended", 0.25, 5.5),
    ]


def test_a_revision_that_waits_for_the_model_shows_the_steps_to_come() -> None:
    found = steps(_revision())
    assert [s.name for s in found if s.at is None] == ["model started", "model done"]
