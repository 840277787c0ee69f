"""Values in the words of the page: states, waits, times, names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from markupsafe import Markup

from hilum.adapters.sql.ledger_values import DeliveryBrief, State
from hilum.domain.identity import Patient
from hilum.domain.results import AiState, DeliveryState, StudyState

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
"""Control and direction characters: they could hide or reverse what stands beside them."""


@dataclass(frozen=True, slots=True)
class Badge:
    """A state as shape and words; the colour (by `tone`) only repeats them."""

    mark: str
    text: str
    tone: str


def clean(value: object) -> object:
    """What the templates print, without characters that can't be seen. Escaping happens after this."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return _UNSEEN.sub("", value)
    return value


def state_badge(state: State) -> Badge:
    match state:
        case AiState.POSITIVE:
            return Badge("◆", "Finding", "positive")
        case AiState.NEGATIVE:
            return Badge("○", "No finding", "negative")
        case AiState.NOT_APPLICABLE:
            return Badge("⊘", "AI did not run", "absent")
        case AiState.FAILED:
            return Badge("✕", "AI failed", "failed")
        case AiState.TOO_LATE:
            return Badge("◷", "AI too late", "absent")
        case StudyState.RECEIVING:
            return Badge("⇣", "Receiving", "moving")
        case StudyState.COMPLETE:
            return Badge("▣", "Complete", "moving")
        case StudyState.WAITING:
            return Badge("◔", "AI waiting", "moving")
        case StudyState.RUNNING:
            return Badge("▶", "AI running", "moving")
        case _:
            assert_never(state)


def without_result(state: State, reason: str) -> str:
    """What stands where findings would: never that there are none when the AI did not say so."""
    match state:
        case AiState.POSITIVE | AiState.NEGATIVE:
            return reason
        case AiState.NOT_APPLICABLE | AiState.FAILED | AiState.TOO_LATE:
            return f"AI did not run: {reason}" if state is AiState.NOT_APPLICABLE else f"AI gave no result: {reason}"
        case StudyState.RECEIVING | StudyState.COMPLETE | StudyState.WAITING | StudyState.RUNNING:
            return f"AI has not answered yet: {reason}"
        case _:
            assert_never(state)


def delivery_badge(state: DeliveryState) -> Badge:
    match state:
        case DeliveryState.QUEUED:
            return Badge("…", "queued", "moving")
        case DeliveryState.SENDING:
            return Badge("⇢", "sending", "moving")
        case DeliveryState.ACCEPTED:
            return Badge("✓", "accepted", "good")
        case DeliveryState.PARKED:
            return Badge("!", "parked", "failed")
        case DeliveryState.SUPERSEDED:
            return Badge("↷", "superseded", "absent")
        case DeliveryState.WITHHELD:
            return Badge("⊘", "withheld", "absent")
        case _:
            assert_never(state)


_ATTENTION = (
    DeliveryState.PARKED,
    DeliveryState.QUEUED,
    DeliveryState.SENDING,
    DeliveryState.WITHHELD,
    DeliveryState.SUPERSEDED,
    DeliveryState.ACCEPTED,
)


def by_state(deliveries: Sequence[DeliveryBrief]) -> list[tuple[DeliveryState, list[DeliveryBrief]]]:
    """Deliveries grouped by state, the ones that need a person first."""
    grouped = [(state, [d for d in deliveries if d.state is state]) for state in _ATTENTION]
    return [(state, found) for state, found in grouped if found]


def person(patient: Patient) -> str:
    """`Family, Given Middle`, with other component groups (ideographic, phonetic) in brackets. PS3.5 6.2.1."""
    groups = [_group(group) for group in patient.name.split("=")]
    named = [group for group in groups if group]
    if not named:
        return "no name"
    return named[0] + (f" ({' / '.join(named[1:])})" if named[1:] else "")


def _group(group: str) -> str:
    family, _, rest = group.partition("^")
    given = " ".join(part for part in rest.split("^")[:2] if part.strip())
    return ", ".join(part.strip() for part in (family, given) if part.strip())


def dicom_date(text: str) -> str:
    """`19600229` as `1960-02-29`; anything else as it is."""
    return f"{text[:4]}-{text[4:6]}-{text[6:]}" if re.fullmatch(r"\d{8}", text) else text


def duration(value: timedelta) -> str:
    """A wait as `42 s`, `7 min` or `3 h 05`."""
    total = max(int(value.total_seconds()), 0)
    if total < 60:
        return f"{total} s"
    hours, minutes = divmod(total // 60, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes:02d}" if hours else f"{minutes} min"


def seconds(value: float) -> str:
    return f"{value:.2f} s" if abs(value) < 10 else f"{value:.0f} s" if abs(value) < 120 else f"{value / 60:.0f} min"


def clock(value: datetime) -> str:
    return value.strftime("%H:%M:%S")


def day(value: datetime) -> str:
    return value.strftime("%Y-%m-%d %H:%M")
