"""Telling those who deliver that something may be due. The ledger is the truth; a wake-up only saves them a wait."""

from typing import Protocol


class WakeUps(Protocol):
    """A wake-up may be lost, repeated or late: whoever is woken looks into the ledger, and a sweep wakes again."""

    def wake(self, destination: str) -> None:
        """Something may be due at this destination. Returns at once and raises nothing, whatever is away."""
        ...

    def close(self) -> None:
        """No more of them: ends what `wake` needs."""
        ...
