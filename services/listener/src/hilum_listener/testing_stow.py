"""For tests: the STOW-RS process as it runs at a site, and a sender that may do everything wrong."""

import http.client
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from sys import executable
from typing import Any

from hilum.testing.external import Process
from hilum_listener.testing_scp import Running

BOUNDARY = "hilum-test"
MEDIA_TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
PART_HEAD = b"Content-Type: application/dicom\r\n"


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
