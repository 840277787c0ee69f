"""The studies of a peak hour, as files: the counts of images are real, their sizes divided by a scale."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from hilum.domain.identity import derive_uid

_UID_LENGTH = 44
_PLACES = {name: f"2.25.{digit * (_UID_LENGTH - 5)}" for name, digit in (("study", "1"), ("series", "2"), ("sop", "3"))}


@dataclass(frozen=True, slots=True)
class Kind:
    """`images` of `image_bytes` each (16 bits a pixel), and clips of `frames` such images in one object."""

    name: str
    modality: str
    sop_class: str
    an_hour: float
    images: int
    image_bytes: int
    frames: int = 0


# The peak hour of a large hospital; sizes and counts of a study as the issue has them.
PEAK_HOUR = (
    Kind("X-ray", "DX", "1.2.840.10008.5.1.4.1.1.1.1", 120, 2, 15_000_000),
    Kind("US", "US", "1.2.840.10008.5.1.4.1.1.6.1", 50, 40, 300_000, frames=60),
    Kind("CT", "CT", "1.2.840.10008.5.1.4.1.1.2", 30, 324, 525_000),
    Kind("MR", "MR", "1.2.840.10008.5.1.4.1.1.4", 25, 600, 131_000),
)
_MULTI_FRAME_US = "1.2.840.10008.5.1.4.1.1.3.1"
_PRIORITIES = (("STAT", 0.1), ("HIGH", 0.2), ("ROUTINE", 0.7))


class Maker:
    """Writes studies of each kind. `scale`: by how much each image has fewer bytes."""

    def __init__(self, folder: Path, *, scale: float, seed: int) -> None:
        self._folder = folder
        self._seed = seed
        self._templates = {
            (kind.name, priority): (_template(kind, priority, scale, 0), _template(kind, priority, scale, kind.frames))
            for kind in PEAK_HOUR
            for priority, _share in _PRIORITIES
        }

    def make(self, kind: Kind, number: int, chance: random.Random, *, images: int = 0) -> tuple[str, Path, int]:
        """Its Study Instance UID, the folder with its files, and how many bytes those are."""
        (priority,) = chance.choices([name for name, _ in _PRIORITIES], [share for _, share in _PRIORITIES])
        still, clip = self._templates[kind.name, priority]
        uid = _fitted("study", self._seed, kind.name, number)
        folder = self._folder / f"{kind.modality}-{number}"
        folder.mkdir(parents=True)
        size = 0
        for image in range((images or kind.images) + (kind.frames > 0 and not images)):
            content = clip if kind.frames and image == kind.images else still
            names: Mapping[str, str] = {
                "study": uid,
                "series": _fitted("series", self._seed, kind.name, number),
                "sop": _fitted("sop", self._seed, kind.name, number, image),
            }
            for place, name in names.items():
                content = content.replace(_PLACES[place].encode(), name.encode())
            (folder / f"{image:04}.dcm").write_bytes(content)
            size += len(content)
        return uid, folder, size


def _fitted(*parts: object) -> str:
    """A UID of a fixed length, so that it goes where another stood."""
    digits = str(int.from_bytes(derive_uid(*map(str, parts)).encode()[-24:], "big"))
    return "2.25.1" + digits[-(_UID_LENGTH - 6) :].rjust(_UID_LENGTH - 6, "7")


def _template(kind: Kind, priority: str, scale: float, frames: int) -> bytes:
    side = max(16, round(math.sqrt(kind.image_bytes / 2 / scale)))
    dataset = Dataset()
    dataset.SOPClassUID = _MULTI_FRAME_US if frames else kind.sop_class
    dataset.SOPInstanceUID, dataset.StudyInstanceUID = _PLACES["sop"], _PLACES["study"]
    dataset.SeriesInstanceUID, dataset.Modality = _PLACES["series"], kind.modality
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = "Bench^A", "B", "", ""
    dataset.StudyDescription, dataset.BodyPartExamined, dataset.ViewPosition = "Chest", "CHEST", "PA"
    dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber, dataset.StudyID = "20261124", "120000", "B", "B"
    dataset.RequestedProcedurePriority, dataset.InstanceNumber = priority, "1"
    if frames:
        dataset.NumberOfFrames = frames
    dataset.Rows = dataset.Columns = side
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PresentationIntentType = "FOR PRESENTATION"
    shape = (max(1, frames), side, side)
    dataset.PixelData = np.random.default_rng(1).integers(0, 4096, shape, dtype=np.uint16).tobytes()
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content = BytesIO()
    FileDataset("", dataset, file_meta=meta, preamble=bytes(128)).save_as(content, enforce_file_format=True)
    return content.getvalue()
