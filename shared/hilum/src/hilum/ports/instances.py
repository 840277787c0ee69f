"""Where stored instances are, for everyone who reads them."""

from pathlib import Path
from typing import Protocol


class InstanceStore(Protocol):
    def path(self, uri: str) -> Path:
        """A local path with the bytes of `uri`, as received.

        Raises:
            Reject: the URI is not one of this store's, or points outside it.
            Retry: the object isn't there.
        """
        ...
