"""The closed list of findings that MedMO-Nano knows, in the fixed order in which an answer names them."""

from typing import Final

PNEUMOTHORAX: Final = "Pneumothorax"
EFFUSION: Final = "Pleural effusion"
CONSOLIDATION: Final = "Consolidation"
NODULE: Final = "Nodule"
CARDIOMEGALY: Final = "Cardiomegaly"
FRACTURE: Final = "Fracture"

LABELS: Final[tuple[str, ...]] = (PNEUMOTHORAX, EFFUSION, CONSOLIDATION, NODULE, CARDIOMEGALY, FRACTURE)
"""Answer order. An index into this tuple is a label index everywhere in this package."""
SMALL: Final = (NODULE, FRACTURE)
"""What a finger covers: training shows them more often."""
