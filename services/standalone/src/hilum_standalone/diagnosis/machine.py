"""Checks of the machine: Python, packages, decoders, the model, disk."""

import importlib.util
import json
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from hilum_standalone.diagnosis.check import Check, note, ok, red

_MODULES = (
    "alembic", "click", "fhir.resources", "highdicom", "hl7", "httpx", "jinja2", "numpy", "onnxruntime", "openjpeg",
    "PIL", "pydantic", "pydicom", "pynetdicom", "rich", "rle", "sqlalchemy", "starlette", "tokenizers",
    "uvicorn", "data_store",
)  # fmt: skip
_SYNTAXES = {
    "JPEG baseline": "1.2.840.10008.1.2.4.50",
    "JPEG lossless": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
    "RLE": "1.2.840.10008.1.2.5",
}


def machine() -> Iterator[Check]:
    yield ok("Python", f"{platform.python_version()}, {sys.prefix}")
    missing = [name for name in _MODULES if not _is_there(name)]
    if missing:
        yield red("Packages", f"missing: {', '.join(missing)}", "make setup")
    else:
        yield ok("Packages", f"{len(_MODULES)} looked for, all there")
    yield _decoders()


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _decoders() -> Check:
    try:
        from pydicom.pixels import get_decoder  # type: ignore[attr-defined]
        from pydicom.uid import UID
    except ImportError:
        return red("Decoders", "pydicom is missing", "make setup")
    missing = [name for name, syntax in _SYNTAXES.items() if not get_decoder(UID(syntax)).is_available]
    if missing:
        return red("Decoders", f"no decoder for {', '.join(missing)}", "make setup")
    return ok("Decoders", ", ".join(_SYNTAXES))


def model(checkpoint: Path) -> Iterator[Check]:
    """The checkpoint, its digest, and the ONNX that is built from it."""
    from hilum_medmo.errors import MedMOError
    from hilum_medmo.identity import checkpoint_digest, read_identity

    try:
        digest = checkpoint_digest(checkpoint)
        identity = read_identity(checkpoint, digest)
    except (MedMOError, OSError) as error:
        yield red(
            "Model", f"{checkpoint}: {error}", "check out the repository with its checkpoint, or set [model] checkpoint"
        )
        return
    simulation = ", a simulation: not for patients" if identity.simulation else ""
    yield ok("Model", f"{identity.name} {identity.version}{simulation}; {digest}")
    builds = [path for path in checkpoint.glob("onnx/*/build.json") if _digest_in(path) == digest]
    if builds:
        yield ok("Model's ONNX", f"built for these weights: {builds[0].parent}")
    else:
        yield red("Model's ONNX", "not built for these weights", f"hilum-medmo build --checkpoint {checkpoint}")


def _digest_in(manifest: Path) -> str:
    try:
        return str(json.loads(manifest.read_text(encoding="utf-8"))["digest"])
    except (OSError, ValueError, KeyError):
        return ""


def disk(data: Path, *, min_free_mb: int) -> Check:
    place = data
    while not place.exists():
        place = place.parent
    free_mb = shutil.disk_usage(place).free // 1_000_000
    if free_mb < min_free_mb:
        return red(
            "Disk", f"{free_mb} MB free, {min_free_mb} MB wanted", "free some space: images are refused below that"
        )
    if free_mb < 10 * min_free_mb:
        return note("Disk", f"{free_mb} MB free", f"images are refused below {min_free_mb} MB")
    return ok("Disk", f"{free_mb // 1000} GB free")
