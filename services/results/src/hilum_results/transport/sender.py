"""What a courier needs of a way to send."""

from typing import Protocol

from hilum_results.handlers.verdict import Verdict


class Sender(Protocol):
    """One destination's way to send. Used by one thread."""

    def send(self, content: bytes, identity: str) -> Verdict:
        """One attempt with these bytes. Trouble with the peer or the way to it is a verdict and never an exception."""
        ...

    def rest(self) -> None:
        """Nothing more is due now: lets go of what is open towards the peer."""
        ...
