"""A picture as a CR or DX image as a modality would send it: 12 bits, window, order, one transfer syntax."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)

from hilum.domain.identity import derive_uid

_FLOOR, _SPAN = 300, 3200  # stored values of black and of white less black, of 4096
_FILM_MM = 400.0  # the longer side of the detector


@dataclass(frozen=True, slots=True)
class Order:
    """Patient, order and study attributes. Every text is fictitious."""

    study_instance_uid: str
    patient_name: str
    patient_id: str
    birth_date: str
    sex: str
    accession_number: str
    description: str
    taken_at: datetime
    priority: str = ""
    character_set: str = "ISO_IR 192"
    utc_offset: str = ""
    body_part: str = "CHEST"


@dataclass(frozen=True, slots=True)
class Image:
    """`pixels`: float32, shape (rows, columns), 0 black to 1 white."""

    pixels: NDArray[np.float32] = field(repr=False)
    modality: Literal["CR", "DX"] = "DX"
    photometric: Literal["MONOCHROME1", "MONOCHROME2"] = "MONOCHROME2"
    transfer_syntax: UID = ExplicitVRLittleEndian
    view: str = "PA"
    number: int = 1


def radiograph(image: Image, order: Order) -> FileDataset:
    """The image as a dataset with its file meta, encoded in its transfer syntax."""
    series_uid = derive_uid("sample-series", order.study_instance_uid, image.modality)
    instance_uid = derive_uid("sample-image", order.study_instance_uid, str(image.number))
    sop_class = ComputedRadiographyImageStorage if image.modality == "CR" else DigitalXRayImageStorageForPresentation
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = UID(instance_uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SpecificCharacterSet = order.character_set
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, instance_uid
    dataset.SeriesInstanceUID = series_uid
    _order(dataset, order)
    _series(dataset, image, order)
    _pixels(dataset, image)
    if image.transfer_syntax.is_compressed:
        dataset.compress(image.transfer_syntax, generate_instance_uid=False, encoding_plugin="pylibjpeg")
    else:
        meta.TransferSyntaxUID = image.transfer_syntax
    return dataset


def write(path: Path, image: Image, order: Order) -> Path:
    dataset = radiograph(image, order)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def _order(dataset: Dataset, order: Order) -> None:
    dataset.StudyInstanceUID = order.study_instance_uid
    dataset.PatientName, dataset.PatientID = order.patient_name, order.patient_id
    dataset.PatientBirthDate, dataset.PatientSex = order.birth_date, order.sex
    dataset.AccessionNumber, dataset.StudyID = order.accession_number, order.accession_number[-8:]
    dataset.StudyDescription = order.description
    dataset.ReferringPhysicianName = ""
    stamp = order.taken_at
    for name in ("Study", "Series", "Content", "Acquisition"):
        setattr(dataset, f"{name}Date", stamp.strftime("%Y%m%d"))
        setattr(dataset, f"{name}Time", stamp.strftime("%H%M%S"))
    if order.utc_offset:
        dataset.TimezoneOffsetFromUTC = order.utc_offset
    if order.priority:
        dataset.RequestedProcedurePriority = order.priority


def _series(dataset: Dataset, image: Image, order: Order) -> None:
    dataset.Modality = image.modality
    dataset.Manufacturer = "Hilum sample generator"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, image.number
    dataset.SeriesDescription = f"{order.body_part.capitalize()} {image.view}"
    dataset.BodyPartExamined, dataset.ViewPosition = order.body_part, image.view
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.PatientOrientation = ["L", "F"]
    if image.modality == "DX":  # PS3.3 C.8.11.1 and C.8.11.3
        dataset.ImageType = ["ORIGINAL", "PRIMARY", ""]
        dataset.PresentationIntentType = "FOR PRESENTATION"
        dataset.ImageLaterality = "U"
        dataset.DetectorType, dataset.PositionerType = "DIRECT", "NONE"
        dataset.AcquisitionContextSequence = Sequence()
        chest = Dataset()
        chest.CodeValue, chest.CodingSchemeDesignator, chest.CodeMeaning = "43799004", "SCT", "Thoracic cavity"
        dataset.AnatomicRegionSequence = Sequence([chest])


def _pixels(dataset: Dataset, image: Image) -> None:
    rows, columns = image.pixels.shape
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PhotometricInterpretation = image.photometric
    spacing = _FILM_MM / max(rows, columns)
    dataset.ImagerPixelSpacing = [f"{spacing:.6f}"] * 2
    dataset.WindowCenter, dataset.WindowWidth = str(_FLOOR + _SPAN // 2), str(_SPAN)
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    dataset.BurnedInAnnotation, dataset.LossyImageCompression = "NO", "00"
    inverse = image.photometric == "MONOCHROME1"
    dataset.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    dataset.PixelIntensityRelationship, dataset.PixelIntensityRelationshipSign = "LOG", 1 if inverse else -1
    shade = 1.0 - image.pixels if inverse else image.pixels
    stored = np.rint(_FLOOR + np.clip(shade, 0.0, 1.0) * _SPAN).astype("<u2")
    dataset.PixelData = stored.tobytes()
    dataset["PixelData"].VR = "OW"
