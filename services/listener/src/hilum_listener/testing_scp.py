"""For tests: the receiving process as it runs at a site, and senders that meet it."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from sys import executable

import numpy as np
from pydicom import Dataset
from pynetdicom import AE, build_context
from pynetdicom.association import Association

from hilum.adapters.folder import FolderInstances
from hilum.testing.dicom_files import chest_image
from hilum.testing.external import Process, need
from hilum_listener.handlers.journal import Entry, InstanceReceived, read


@dataclass
class Running:
    """The process, its data folder and the plain port (the TLS port when that is the only one)."""

    process: Process
    data: Path
    port: int

    def entries(self) -> list[Entry]:
        """Everything that is journaled, oldest journal first."""
        found: list[Entry] = []
        for path in sorted((self.data / "spool" / "journal").glob("*.jsonl")):
            found += [entry for entry, _ in read(path, 0, limit_bytes=1 << 30).entries if entry is not None]
        return found

    def received(self) -> list[InstanceReceived]:
        return [entry for entry in self.entries() if isinstance(entry, InstanceReceived)]

    def stored(self, sop_instance_uid: str) -> Path:
        """The file of the last request for this instance."""
        uris = [entry.uri for entry in self.received() if entry.sop_instance_uid == sop_instance_uid]
        return FolderInstances(self.data / "spool").path(uris[-1])


def start_scp(data: Path, *, config: str = "", port: int = 0) -> Running:
    """Starts `python -m hilum_listener scp` on a free port, or this one, and waits until it listens."""
    data.mkdir(exist_ok=True)
    (data / "run" / "scp.port").unlink(missing_ok=True)
    command: list[str | Path] = [executable, "-m", "hilum_listener", "scp", "--data", data, "--port", str(port)]
    if config:
        (data / "hilum.toml").write_text(config)
        command += ["--config", data / "hilum.toml"]
    port_file = data / "run" / "scp.port"
    process = Process(command, log=data / "scp.log").wait_until(port_file.exists, timeout_s=60)
    return Running(process, data, int(port_file.read_text()))


def dcmtk(program: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Runs one of DCMTK's programs to its end."""
    command = [need(program, install="dcmtk"), *[str(a) for a in arguments]]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def associate(port: int, *, sop_class: str, syntax: str, calling: str = "TESTSCU") -> Association:
    """Asks for an association with one presentation context; the answer may be a rejected one."""
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
    return ae.associate("127.0.0.1", port, contexts=[build_context(sop_class, syntax)], ae_title="HILUM")


def small_image(name: str, **attributes: object) -> Dataset:
    """64 x 64 pixels, of the study `it`."""
    return chest_image(np.arange(4096, dtype=np.uint16).reshape(64, 64), study="it", name=name, **attributes)
