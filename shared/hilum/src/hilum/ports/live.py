"""Live updates: who shows the worklist hears that it changed. Never what changed: the ledger says that."""

from typing import Protocol


class Announcer(Protocol):
    """Tells who shows the worklist that something was committed."""

    def changed(self) -> None:
        """Returns at once and raises nothing; it may be lost."""
        ...

    def close(self) -> None:
        """No more of it."""
        ...


class Live(Protocol):
    """Hears of changes. What is lost on the way, or while the way is cut, is found by looking, within seconds."""

    @property
    def number(self) -> int:
        """Grows when something may have changed since it was last read."""
        ...

    @property
    def closed(self) -> bool: ...

    def close(self) -> None:
        """Hears no more."""
        ...
