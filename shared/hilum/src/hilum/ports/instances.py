"""Where stored instances are, for everyone who reads them."""

from datetime import datetime
from pathlib import Path
from typing import Protocol


class InstanceStore(Protocol):
    """Files as they were received, under URIs made of digests alone: no name, number or UID of a patient in any."""

    def uri_of(self, *, sop_instance_uid: str, sha256: str) -> str:
        """Where `publish` puts an instance; asks nobody."""
        ...

    def publish(self, file: Path, *, sop_instance_uid: str, sha256: str) -> str:
        """Puts a local file where every reader reaches it, durably, and returns its URI.

        The same instance again changes nothing and gives the same URI. Until the call returns nobody sees half of it.

        Raises:
            Busy: the store is away or full; the same call succeeds later.
            Reject: the file's bytes are not those of `sha256` (hexadecimal).
            OSError: the local file can't be read.
        """
        ...

    def path(self, uri: str) -> Path:
        """A local path with the bytes of `uri`, as received. Open it soon: a local copy may make room for others.

        Raises:
            Reject: the URI is not one of this store's, or points outside it.
            Retry: the object isn't there, or what came was not what was stored.
            Busy: the store is away.
        """
        ...

    def exists(self, uri: str, *, size_bytes: int | None = None) -> bool:
        """True when the object is there, whole, with this size where one is given. Raises as `path`, but no Retry."""
        ...

    def delete(self, uri: str) -> None:
        """Removes the object, durably; one that is gone already is no error. Raises as `exists`."""
        ...

    def clear_unfinished(self, *, before: datetime) -> int:
        """Removes what processes that were killed while they published left since before that time; how many.

        Nobody sees any of it, but it takes room. Raises as `exists`.
        """
        ...
