"""Where a receiver keeps what it got, and the receipt of each delivery."""

import hashlib
import json
import os
import re
import threading
from datetime import UTC, datetime
from pathlib import Path

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


class Kept:
    """One folder under DIR/received, and `receipts.jsonl` in it with a line for each delivery, repeats included.

    A second delivery under the same name with the same bytes changes nothing; with other bytes it is kept beside the
    first (`name~2.ext`), so that a wrong resend can be seen.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._lock = threading.Lock()

    def keep(self, name: str, extension: str, content: bytes) -> str:
        """Stores the content durably; the file's name. `name` may be anything: what a path can't hold becomes `_`."""
        safe = _UNSAFE.sub("_", name)[:100].lstrip(".") or "unnamed"
        digest = hashlib.sha256(content).hexdigest()
        with self._lock:
            path, number = self._folder / f"{safe}.{extension}", 1
            while path.exists() and path.read_bytes() != content:
                number += 1
                path = self._folder / f"{safe}~{number}.{extension}"
            if not path.exists():
                _write(path, content)
            receipt = {"at": datetime.now(UTC).isoformat(), "identity": name, "sha256": digest, "file": path.name}
            with (self._folder / "receipts.jsonl").open("a", encoding="utf-8") as receipts:
                receipts.write(json.dumps(receipt) + "\n")
        return path.name


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
