"""What a peer's answer means for a delivery, as pure functions."""

import random
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

MAX_WORDS = 400
_MOST_DOUBLINGS = 30


class Outcome(StrEnum):
    """`parked`: the peer will never take these bytes, a person must look."""

    ACCEPTED = "accepted"
    RETRY = "retry"
    PARKED = "parked"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of one attempt, with the peer's words for people.

    Attributes:
        not_before: the peer asked not to be tried again for this long.
    """

    outcome: Outcome
    words: str
    not_before: timedelta = timedelta(0)


def accepted(words: str) -> Verdict:
    return Verdict(Outcome.ACCEPTED, _shown(words))


def retry(words: str, *, not_before: timedelta = timedelta(0)) -> Verdict:
    return Verdict(Outcome.RETRY, _shown(words), not_before)


def parked(words: str) -> Verdict:
    return Verdict(Outcome.PARKED, _shown(words))


def _shown(words: str) -> str:
    """One line without control characters, of bounded length: it comes from outside."""
    return " ".join("".join(c if c.isprintable() else " " for c in words).split())[:MAX_WORDS]


def pause(attempt: int, *, first: timedelta, longest: timedelta, chance: random.Random) -> timedelta:
    """How long to wait after failed attempt number `attempt` (from 1): exponential with full jitter and a ceiling.

    Full jitter spreads the retries of everything that failed when a peer went down, so it isn't met by all at once.
    """
    doubled: int = 2 ** min(attempt - 1, _MOST_DOUBLINGS)
    ceiling = min(longest, first * doubled)
    return ceiling * chance.random()


def of_store_status(status: int, comment: str = "") -> Verdict:
    """C-STORE response status (PS3.4 B.2.3, PS3.7 annex C)."""
    words = f"C-STORE status 0x{status:04X}" + (f": {comment}" if comment else "")
    if status == 0x0000 or status & 0xF000 == 0xB000 or status in (0x0001, 0x0107, 0x0116):
        return accepted(words)
    if status & 0xFF00 == 0xA700 or status in (0x0110, 0x0213, 0xFE00):
        return retry(words)  # out of resources, processing failure, resource limitation, cancel
    return parked(words)


def of_http_status(status: int, words: str, *, retry_after: timedelta = timedelta(0)) -> Verdict:
    """An HTTP status. 408 and 429 ask for another try; other 4xx and a redirect will not change by repeating."""
    text = f"HTTP {status}" + (f": {words}" if words else "")
    if 200 <= status < 300:
        return accepted(text)
    if status in (408, 429) or status >= 500:
        return retry(text, not_before=retry_after)
    return parked(text)


def of_acknowledgement(code: str, words: str) -> Verdict:
    """MSA-1 (HL7 2.5.1 table 0008)."""
    text = f"MSA-1 {code or 'missing'}" + (f": {words}" if words else "")
    if code in ("AA", "CA"):
        return accepted(text)
    if code in ("AE", "CE"):
        return parked(text)
    return retry(text)
