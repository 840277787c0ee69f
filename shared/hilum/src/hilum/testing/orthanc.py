"""Orthanc as a PACS beside the tests: on free ports, in a temporary folder."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from hilum.testing.external import Process, answers, free_port, missing, need


@dataclass(frozen=True, slots=True)
class Orthanc:
    """A running one: its ports on 127.0.0.1; AE title PACS."""

    dicom_port: int
    http: httpx.Client

    def put(self, path: Path) -> None:
        """Gives it a file."""
        self.http.post("/instances", content=path.read_bytes()).raise_for_status()

    def files(self) -> list[bytes]:
        """Every instance that it holds, as a file."""
        return [self.http.get(f"/instances/{key}/file").content for key in self.http.get("/instances").json()]


def dicomweb_plugin() -> Path:
    """Where Debian puts the plugin for QIDO-RS and WADO-RS; the test says what to install when it isn't there."""
    found = sorted(Path("/usr/share/orthanc/plugins").glob("libOrthancDicomWeb.so*"))
    if not found:
        missing("Orthanc's DICOMweb plugin", "apt-get install orthanc-dicomweb")
    return found[0]


@contextmanager
def orthanc(
    folder: Path, *, plugins: Sequence[str | Path] = (), modalities: Mapping[str, tuple[str, str, int]] | None = None
) -> Iterator[Orthanc]:
    """Starts Orthanc, waits until it answers, and stops it in the end.

    `modalities`: whom it may send to, by a name: AE title, host and port.
    """
    program = need("Orthanc", install="orthanc")
    folder.mkdir(parents=True, exist_ok=True)
    dicom_port, http_port = free_port(), free_port()
    configuration = {
        "DicomAet": "PACS",
        "DicomPort": dicom_port,
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "StorageDirectory": str(folder / "orthanc"),
        "IndexDirectory": str(folder / "orthanc"),
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
        "DicomAlwaysAllowMove": True,
        "DicomModalities": {name: list(where) for name, where in (modalities or {}).items()},
        "Plugins": [str(plugin) for plugin in plugins],
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (
        Process([program, folder / "orthanc.json"], log=folder / "orthanc.log") as process,
        httpx.Client(base_url=f"http://127.0.0.1:{http_port}", trust_env=False, timeout=30) as client,
    ):
        process.wait_until(lambda: answers(dicom_port) and answers(http_port))
        yield Orthanc(dicom_port, client)
