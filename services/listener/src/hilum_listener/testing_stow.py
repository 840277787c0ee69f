"""For tests: STOW-RS without a network and as the process that runs at a site, and a sender that may do all wrong."""

import http.client
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from sys import executable
from typing import Any

import numpy as np
from pydicom import Dataset

from hilum.domain.errors import Reject
from hilum.testing.dicom_files import chest_image
from hilum.testing.external import Process
from hilum_listener.handlers.journal import Entry, InstanceReceived, read
from hilum_listener.handlers.stow import Failure, Outcome, Transaction
from hilum_listener.handlers.stow_store import DurableStore
from hilum_listener.testing import Listener
from hilum_listener.testing_scp import Running

BOUNDARY = "hilum-test"
MEDIA_TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
PART_HEAD = b"Content-Type: application/dicom\r\n"
PIXELS = np.arange(64, dtype=np.uint16).reshape(8, 8)
IMAGE = chest_image(PIXELS)


def named(name: str, **attributes: Any) -> Dataset:
    """A small image of the study that `IMAGE` is of."""
    return chest_image(PIXELS, name=name, **attributes)


def failures(outcomes: Sequence[Outcome]) -> list[Failure | None]:
    return [outcome.failure for outcome in outcomes]


class Door:
    """Requests to one listener's spool and journal."""

    def __init__(self, listener: Listener, pool: ThreadPoolExecutor) -> None:
        self.listener = listener
        self._pool = pool

    def store(self) -> DurableStore:
        listener = self.listener
        return DurableStore(
            listener.spool,
            listener.journal,
            listener.clock.now,
            self._pool,
            calling_ae="WEB",
            peer="127.0.0.1",
            association="w-1",
        )

    def post(self, body: bytes, *, study: str = "", piece: int = 1 << 16) -> list[Outcome]:
        transaction = Transaction(BOUNDARY, self.store(), study_instance_uid=study)
        try:
            for at in range(0, len(body), piece):
                transaction.feed(body[at : at + piece])
        except Reject:
            pass
        transaction.finish()
        return transaction.outcomes

    def entries(self) -> list[Entry]:
        found: list[Entry] = []
        for path in sorted(self.listener.places.journal.glob("*.jsonl")):
            found += [entry for entry, _ in read(path, 0).entries if entry is not None]
        return found

    def received(self) -> list[InstanceReceived]:
        return [entry for entry in self.entries() if isinstance(entry, InstanceReceived)]

    def files(self) -> list[bytes]:
        """What the spool holds; names made ahead are empty, and not counted."""
        return [path.read_bytes() for path in self._written()]

    def half_written(self) -> list[Path]:
        """Files with content that no journal names."""
        known = {entry.uri for entry in self.received()}
        return [path for path in self._written() if f"spool:{path.parent.name}/{path.name}" not in known]

    def _written(self) -> list[Path]:
        return [path for path in sorted(self.listener.places.spool.glob("??/*.dcm")) if path.stat().st_size]


@dataclass(frozen=True, slots=True)
class Answer:
    """`module` is the Store Instances Response Module of a JSON answer, empty for any other."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def module(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body) if "json" in self.headers.get("content-type", "") else {}
        return found

    @property
    def stored(self) -> list[str]:
        """SOP Instance UIDs of Referenced SOP Sequence."""
        return [item["00081155"]["Value"][0] for item in self._items("00081199")]

    @property
    def failed(self) -> dict[str, int]:
        """SOP Instance UID to Failure Reason, of Failed SOP Sequence."""
        return {item["00081155"]["Value"][0]: item["00081197"]["Value"][0] for item in self._items("00081198")}

    @property
    def other_failures(self) -> list[int]:
        return [item["00081197"]["Value"][0] for item in self._items("0008119A")]

    def _items(self, tag: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.module.get(tag, {}).get("Value", [])
        return items


def start_stow(data: Path, *, config: str = "") -> Running:
    """Starts `python -m hilum_listener stow` on a free port and waits until it listens."""
    data.mkdir(exist_ok=True)
    port_file = data / "run" / "stow.port"
    port_file.unlink(missing_ok=True)
    command: list[str | Path] = [executable, "-m", "hilum_listener", "stow", "--data", data, "--http-port", "0"]
    if config:
        (data / "hilum.toml").write_text(config)
        command += ["--config", data / "hilum.toml"]
    process = Process(command, log=data / "stow.log").wait_until(port_file.exists, timeout_s=60)
    return Running(process, data, int(port_file.read_text()))


def body_of(parts: Sequence[bytes], *, part_head: bytes = PART_HEAD) -> bytes:
    """A multipart body of these files."""
    boundary = BOUNDARY.encode()
    return b"".join(b"--%s\r\n%s\r\n%s\r\n" % (boundary, part_head, part) for part in parts) + b"--%s--\r\n" % boundary


def post(
    port: int,
    body: bytes | Iterable[bytes],
    *,
    path: str = "/studies",
    connection: http.client.HTTPConnection | None = None,
    **headers: str,
) -> Answer:
    """One request; an iterable is sent in chunks (RFC 9112 7.1). `headers`: underscores stand for hyphens."""
    own = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    given = {"Content-Type": MEDIA_TYPE} | {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        own.request("POST", path, body, given)
        response = own.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        if connection is None:
            own.close()
