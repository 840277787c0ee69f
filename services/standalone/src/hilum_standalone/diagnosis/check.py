"""The outcome of one check."""

from dataclasses import dataclass
from enum import StrEnum


class Grade(StrEnum):
    OK = "ok"
    NOTE = "note"  # nothing is wrong, but somebody should know
    RED = "red"  # something doesn't work


@dataclass(frozen=True, slots=True)
class Check:
    """`found` says how it is; `remedy` what to do, empty when there is nothing to do."""

    what: str
    grade: Grade
    found: str
    remedy: str = ""


def ok(what: str, found: str) -> Check:
    return Check(what, Grade.OK, found)


def note(what: str, found: str, remedy: str = "") -> Check:
    return Check(what, Grade.NOTE, found, remedy)


def red(what: str, found: str, remedy: str) -> Check:
    return Check(what, Grade.RED, found, remedy)
