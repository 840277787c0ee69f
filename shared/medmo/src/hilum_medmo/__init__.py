"""MedMO without a hospital: prompt, image processor, ONNX builder, generation and box parsing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hilum_medmo.errors import CheckpointError, MedMOError, RequestError
from hilum_medmo.model import Finish, Generation, MedMO, ModelIdentity, Request, Threshold, Timings, Token

if TYPE_CHECKING:
    from hilum_medmo.engine import OnnxMedMO

__all__ = [
    "CheckpointError",
    "Finish",
    "Generation",
    "MedMO",
    "MedMOError",
    "ModelIdentity",
    "Request",
    "RequestError",
    "Threshold",
    "Timings",
    "Token",
    "load",
    "nano_checkpoint",
]


def load(checkpoint: Path, *, threads: int | None = None, onnx_dir: Path | None = None) -> OnnxMedMO:
    """See `hilum_medmo.engine.load`."""
    from hilum_medmo import engine  # whoever asks a model elsewhere never loads ONNX Runtime

    return engine.load(checkpoint, threads=threads, onnx_dir=onnx_dir)


def nano_checkpoint() -> Path:
    """MedMO-Nano's folder, beside the runtime that runs it."""
    return Path(__file__).resolve().parents[2] / "checkpoints" / "medmo-nano"
