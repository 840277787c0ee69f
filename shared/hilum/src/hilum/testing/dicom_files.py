"""Writes small DICOM files for tests: sound by default, every attribute open to damage."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from hilum.domain.identity import derive_uid


def chest_image(pixels: NDArray[Any], *, study: str = "study", name: str = "image", **attributes: Any) -> Dataset:
    """A CR chest image of these stored values, (rows, columns) or (frames, rows, columns) of u1, i1, u2 or i2.

    `study` and `name` choose the UIDs; `attributes` are keywords of PS3.6 and override everything; None removes one.
    """
    dataset = Dataset()
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = derive_uid("test-image", study, name)
    dataset.StudyInstanceUID = derive_uid("test-study", study)
    dataset.SeriesInstanceUID = derive_uid("test-series", study)
    dataset.Modality = "CR"
    dataset.BodyPartExamined = "CHEST"
    dataset.PatientID = "T-1"
    dataset.PatientName = "Test^Case"
    dataset.InstanceNumber = 1
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    if pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.add_new("PixelData", "OW" if pixels.dtype.itemsize == 2 else "OB", pixels.tobytes())
    if len(dataset.PixelData) % 2:
        dataset.PixelData += b"\0"
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def write(path: Path, dataset: Dataset, *, syntax: str = ExplicitVRLittleEndian) -> Path:
    """The dataset as a Part 10 file that declares `syntax`; the elements are not checked. Returns `path`."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "1.2")
    meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2.3")
    dataset.file_meta = meta
    dataset.save_as(path, enforce_file_format=True)
    return path
