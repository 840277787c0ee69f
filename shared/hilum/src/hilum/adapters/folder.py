"""Instances in a folder: the embedded side of the instance store. Paths come from digests only."""

import re
from pathlib import Path

from hilum.domain.errors import Reject, Retry

_KEY = re.compile(r"[0-9a-f]{2}/[0-9a-f]{16,64}-[0-9a-f]{16,64}\.dcm")
SCHEME = "spool:"


class FolderInstances:
    """`spool:ab/<digest of the SOP Instance UID>-<digest of the bytes>.dcm` under one root."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, uri: str) -> Path:
        key = uri.removeprefix(SCHEME)
        if not uri.startswith(SCHEME) or _KEY.fullmatch(key) is None:
            raise Reject("the instance's URI is not one of this store's")
        path = self._root / key
        if not path.exists():
            raise Retry("the instance is not in the store")
        return path
