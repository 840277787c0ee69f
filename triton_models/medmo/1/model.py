"""MedMO for Triton's Python backend; all it does is in hilum_medmo.serving."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import triton_python_backend_utils as pb_utils

import hilum_medmo
from hilum_medmo.serving.triton import Backend, InferenceRequest, number, parameters


class TritonPythonModel:
    """What the backend looks for in a model.py."""

    def initialize(self, arguments: Mapping[str, str]) -> None:
        """Loads the checkpoint; an error here keeps Triton from becoming ready."""
        given = parameters(arguments)
        checkpoint = Path(given["checkpoint"]) if given["checkpoint"] else hilum_medmo.nano_checkpoint()
        medmo = hilum_medmo.load(checkpoint, threads=number(given["threads"]))
        engines, most_waiting = number(given["engines"]) or 1, number(given["most_waiting"]) or 64
        self._backend = Backend(medmo, pb_utils, engines=engines, most_waiting=most_waiting)

    def execute(self, requests: Sequence[InferenceRequest]) -> None:
        self._backend.execute(requests)

    def finalize(self) -> None:
        self._backend.finalize()
