"""MedMO without a hospital: prompt, image processor, ONNX builder, generation and box parsing."""

from __future__ import annotations

from pathlib import Path

from hilum_medmo.engine import load
from hilum_medmo.errors import CheckpointError, MedMOError, RequestError
from hilum_medmo.model import Finish, Generation, MedMO, ModelIdentity, Request, Threshold, Timings, Token

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


def nano_checkpoint() -> Path:
    """MedMO-Nano's folder, beside the runtime that runs it."""
    return Path(__file__).resolve().parents[2] / "checkpoints" / "medmo-nano"
