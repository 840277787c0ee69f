"""The model port over model servers: Triton, asked by gRPC (the contract: triton_models/medmo/README.md)."""

from hilum_worker.triton.model import TritonModel, connect

__all__ = ["TritonModel", "connect"]
