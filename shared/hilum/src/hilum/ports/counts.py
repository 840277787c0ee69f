"""How many images an archive says a study has."""

from collections.abc import Iterable
from datetime import datetime
from typing import Protocol


class ExpectedCounts(Protocol):
    """Answers at once from what it asked before: whoever judges a study holds a transaction."""

    def expected(self, study_instance_uid: str, *, since: datetime) -> int | None:
        """How many images the archive counted; None unless it was asked after `since` and answered."""
        ...

    def changed(self) -> Iterable[str]:
        """The studies with a new answer since this was asked last."""
        ...


class NoCounts:
    """No archive is configured to be asked."""

    def expected(self, study_instance_uid: str, *, since: datetime) -> int | None:
        return None

    def changed(self) -> Iterable[str]:
        return ()
