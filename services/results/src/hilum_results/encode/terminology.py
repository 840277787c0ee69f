"""Codes for the labels of MedMO and for what Hilum says about them. One table, written once, as data.

Sources: SNOMED CT International Edition; a test compares the codes that DICOM PS3.16 also lists with pydicom's copy of
it. A label that is not here is kept as the model's own text under Hilum's private scheme: a code is never guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from hilum.domain.identity import digest_of

PRIVATE_SCHEME = "99HILUM"
"""PS3.16 8.2: a scheme designator that begins with 99 is private."""


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept in DICOM's terms: value, scheme designator, meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Concept:
    """What a label means.

    Attributes:
        site: where the finding is by definition, or None. The side is not known to the model, so it is not said.
        source: where the code was found.
    """

    finding: Code
    site: Code | None
    source: str


def _sct(value: str, meaning: str) -> Code:
    return Code(value, "SCT", meaning)


LUNG = _sct("39607008", "Lung")  # PS3.16 CID 4
PLEURA = _sct("3120008", "Pleura")  # PS3.16 CID 7151
HEART = _sct("80891009", "Heart")  # PS3.16 CID 4009
BONE = _sct("272673000", "Bone")  # PS3.16 CID 6202

LABELS: Mapping[str, Concept] = {
    "pneumothorax": Concept(_sct("36118008", "Pneumothorax"), PLEURA, "PS3.16 CID 6102"),
    "pleural effusion": Concept(_sct("60046008", "Pleural effusion"), PLEURA, "PS3.16 CID 645"),
    "consolidation": Concept(_sct("95436008", "Lung consolidation"), LUNG, "SNOMED CT, disorder"),
    "nodule": Concept(_sct("27925004", "Nodule"), LUNG, "PS3.16 CID 6104"),
    "cardiomegaly": Concept(_sct("8186001", "Cardiomegaly"), HEART, "SNOMED CT, disorder"),
    "fracture": Concept(_sct("125605004", "Fracture of bone"), BONE, "SNOMED CT, disorder"),
}

SYNONYMS: Mapping[str, str] = {
    "fractures": "fracture",
    "nodules": "nodule",
    "consolidations": "consolidation",
    "pleural effusions": "pleural effusion",
    "effusion": "pleural effusion",
}

PRIORITY = _sct("260870009", "Priority")
HIGH_PRIORITY = _sct("394849002", "High priority")
NORMAL_PRIORITY = _sct("394848005", "Normal priority")
PRESENCE = _sct("705057003", "Presence")
ABSENT = _sct("2667000", "Absent")
PRESENT = _sct("52101004", "Present")
BOUNDED_BY = _sct("75958009", "Bounded by")
IMAGING_PROCEDURE = _sct("363679005", "Imaging procedure")  # in CID 100, which a validator checks

FINDING = Code("121071", "DCM", "Finding")
COMMENT = Code("121106", "DCM", "Comment")
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
IMAGE_REGION = Code("111030", "DCM", "Image Region")
TRACKING_UID = Code("112040", "DCM", "Tracking Unique Identifier")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")
PERCENT = Code("%", "UCUM", "Percent")


def lookup(label: str) -> Concept | None:
    """The concept of a label, or None when it is not in the table. Case and runs of spaces do not matter."""
    key = " ".join(label.lower().split())
    return LABELS.get(SYNONYMS.get(key, key))


def finding_code(label: str) -> Code:
    """The label's code; for an unknown label a private code whose meaning is the label itself."""
    concept = lookup(label)
    if concept is not None:
        return concept.finding
    # PS3.3 8.1: Code Value is SH (16 characters), PS3.3 8.3: Code Meaning is LO (64 characters)
    return Code(f"L{digest_of('label', label)[:12]}", PRIVATE_SCHEME, label[:64].strip() or "unnamed")
