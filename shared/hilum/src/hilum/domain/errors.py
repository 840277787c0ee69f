"""Errors named by what happens next. Anything else that is raised is a bug and ends the process."""


class HilumError(Exception):
    """An expected failure. `reason` is shown to people and must carry no patient identity."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Reject(HilumError):
    """This input can never succeed: dead letter with the reason, go on with the next."""


class Retry(HilumError):
    """This may succeed later: back off and try the same input again."""


class Busy(HilumError):
    """A part that every input needs is away or full: stop taking until it is back."""
