"""How many images an archive says a study has."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Expected:
    """`images` as an archive counted them, None when none did; `awaited` while an archive is being asked."""

    images: int | None = None
    awaited: bool = False


class ExpectedCounts(Protocol):
    """Answers at once from what it asked before: whoever judges a study holds a transaction."""

    def expected(self, study_instance_uid: str, *, since: datetime) -> Expected:
        """What was answered to a question asked after `since`; awaited until then. Every question gets an answer."""
        ...

    def changed(self) -> Iterable[str]:
        """The studies with a new answer since this was asked last."""
        ...


class NoCounts:
    """No archive is configured to be asked."""

    def expected(self, study_instance_uid: str, *, since: datetime) -> Expected:
        return Expected()

    def changed(self) -> Iterable[str]:
        return ()
