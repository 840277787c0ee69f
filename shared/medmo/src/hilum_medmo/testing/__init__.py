"""For tests of whoever uses MedMO: a scripted model, and random-weight checkpoints of any geometry."""

from __future__ import annotations

from hilum_medmo.testing.random_checkpoint import NANO, TINY, Geometry, write_random_checkpoint
from hilum_medmo.testing.scripted import SCRIPTED_IDENTITY, ScriptedMedMO, answer

__all__ = [
    "NANO",
    "SCRIPTED_IDENTITY",
    "TINY",
    "Geometry",
    "ScriptedMedMO",
    "answer",
    "write_random_checkpoint",
]
