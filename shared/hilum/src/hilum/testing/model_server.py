"""tritonserver for tests: on a free port, with a model repository in a temporary folder, stopped by pid.

It lies where `tests/tools/install-triton` puts it. Its model is MedMO with a checkpoint, or one that waits a given time
and gives a fixed answer (hilum_medmo.testing.waiting); both speak the contract of triton_models/medmo/README.md. It can
be killed, paused and started again on the same port.
"""

import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from hilum.testing.external import Process, free_port, missing

ROOT = Path(__file__).resolve().parents[5]
_STARTED = "Started GRPCInferenceService"


class ModelServer:
    """One tritonserver; see `medmo_server` and `waiting_server`."""

    def __init__(self, folder: Path, model: Path, parameters: Mapping[str, str]) -> None:
        """Args:
        folder: existing; the repository and the log are made in it.
        model: the model.py.
        parameters: those of config.pbtxt, all of them.
        """
        self.folder = folder
        self.port = free_port()
        self._home, self._libraries = _installation()
        self._process: Process | None = None
        target = folder / "models" / "medmo"
        (target / "1").mkdir(parents=True)
        shutil.copyfile(model, target / "1" / "model.py")
        # The backend ignores PYTHONPATH, and has the model's folder among the places where it looks for modules.
        (target / "hilum_medmo").symlink_to(_package("hilum_medmo"))
        shipped = (ROOT / "triton_models" / "medmo" / "config.pbtxt").read_text()
        config, count = re.subn(r"(?s)^parameters \[.*?^\]", lambda _: _block(parameters), shipped, flags=re.M)
        assert count == 1, "config.pbtxt has no parameters"
        (target / "config.pbtxt").write_text(config)

    @property
    def address(self) -> str:
        """As in `[model] servers`."""
        return f"127.0.0.1:{self.port}"

    @property
    def process(self) -> Process:
        """The running server."""
        if self._process is None:
            raise AssertionError("the model server is not running")
        return self._process

    def start(self, *, timeout_s: float = 60.0) -> Self:
        """Returns when the model is loaded and the server answers."""
        log = self.folder / f"log-{len(list(self.folder.glob('log-*')))}"
        self._process = Process(self._command(), log=log, env=self._environment(), cwd=self.folder)
        self._process.wait_until(lambda: _STARTED in log.read_text(errors="replace"), timeout_s=timeout_s)
        return self

    def kill(self) -> None:
        """SIGKILL to the server, as a crash would end it; its model's process follows within half a second."""
        self.process.kill()
        self._process = None

    def pause(self) -> None:
        """SIGSTOP to the server and its model's process."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT to both."""
        os.killpg(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Ends it if it runs, paused or not."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself
                self.resume()
            self._process.stop()
            self._process = None

    def resident_mb(self) -> int:
        """Memory of the server and its model's process, pages that both use counted once (PSS)."""
        pids = [
            path.name for path in Path("/proc").iterdir() if path.name.isdigit() and _group(path) == self.process.pid
        ]
        kilobytes = 0
        for pid in pids:
            text = Path("/proc", pid, "smaps_rollup").read_text()
            kilobytes += int(re.search(r"^Pss:\s+(\d+) kB", text, re.M)[1])  # type: ignore[index]  # always there
        return kilobytes // 1024

    def __enter__(self) -> Self:
        return self.start() if self._process is None else self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _command(self) -> list[str | Path]:
        server = self._home / "lib" / _python() / "site-packages" / "pytriton" / "tritonserver"
        return [
            # It ends with the process that started it, however that ends.
            *("setpriv", "--pdeathsig", "KILL", "--", server / "bin" / "tritonserver"),
            *("--model-repository", self.folder / "models", "--backend-directory", server / "backends"),
            *("--grpc-address", "127.0.0.1", "--grpc-port", str(self.port)),
            *("--allow-http", "false", "--allow-metrics", "false", "--exit-timeout-secs", "5"),
            "--disable-auto-complete-config",
        ]

    def _environment(self) -> dict[str, str]:
        """The backend's Python is the first on the path, with its virtual environment."""
        return {"PATH": f"{self._home / 'bin'}:{os.environ['PATH']}", "LD_LIBRARY_PATH": self._libraries}


def medmo_server(folder: Path, *, checkpoint: Path | None = None, engines: int = 1, threads: int = 1) -> ModelServer:
    """MedMO with the checkpoint, MedMO-Nano without one; not started yet."""
    given = {
        "checkpoint": str(checkpoint or ""),
        "threads": str(threads),
        "engines": str(engines),
        "most_waiting": "64",
    }
    return ModelServer(_made(folder), ROOT / "triton_models" / "medmo" / "1" / "model.py", given)


def waiting_server(
    folder: Path, *, wait_ms: int, engines: int = 1, most_waiting: int = 64, locate: str = "", digest: str = ""
) -> ModelServer:
    """The model that waits, not started yet. `locate`: another answer; `digest`: other weights."""
    given = {
        "wait_ms": str(wait_ms),
        "engines": str(engines),
        "most_waiting": str(most_waiting),
        "locate": locate,
        "digest": digest or WAITING_DIGEST,
    }
    return ModelServer(_made(folder), ROOT / "tests" / "fixtures" / "waiting_model" / "model.py", given)


WAITING_DIGEST = hashlib.sha256(b"waiting").hexdigest()
"""`[model] digest` for it."""


def _group(process: Path) -> int:
    """The process group, field 5 of its stat; 0 for one that is gone."""
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[2])
    except OSError:
        return 0


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _block(parameters: Mapping[str, str]) -> str:
    lines = [f'  {{ key: "{key}", value: {{ string_value: "{value}" }} }}' for key, value in parameters.items()]
    return "parameters [\n" + ",\n".join(lines) + "\n]"


def _package(name: str) -> Path:
    """Where a package lies, without importing it."""
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def _python() -> str:
    return f"python{sys.version_info.major}.{sys.version_info.minor}"


def _installation() -> tuple[Path, str]:
    """The environment that was installed for these pins, and the folder of libpython."""
    pins = hashlib.sha256((ROOT / "requirements" / "triton.txt").read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hilum"
    complete = cache / f"triton-{pins}" / "complete"
    if not complete.is_file():
        missing("tritonserver", "tests/tools/install-triton (make services)")
    return complete.parent, complete.read_text().strip()
