"""The SR object around the content tree (PS3.3 A.35.13)."""

import io

import highdicom as hd
import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, Comprehensive3DSRStorage, ExplicitVRLittleEndian

from hilum.adapters.dicom.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from hilum.domain.results import Result
from hilum_results.encode.sr.content import evidence, images, report
from hilum_results.encode.sr.text import identifier, lines, one_line, person_name
from hilum_results.encode.times import in_object_zone, offset_text, valid_date, valid_time

SERIES_NUMBER = 9001


def encode(result: Result) -> bytes:
    """The result as a Part 10 file, Explicit VR Little Endian, UTF-8 (ISO_IR 192).

    A function of the result alone: the same result gives the same bytes. COMPLETE and PRELIMINARY, UNVERIFIED: only a
    person verifies (PS3.3 C.17.2).
    """
    # Headers are written as the images have them, valid or not: refusing one would lose the result.
    with pydicom.config.disable_value_validation():
        dataset = _dataset(result)
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _dataset(result: Result) -> Dataset:
    model = result.findings.model
    dataset = hd.sr.Comprehensive3DSR(
        evidence=evidence(result),
        content=report(result),
        series_instance_uid=result.sr_series_uid,
        series_number=SERIES_NUMBER,
        sop_instance_uid=result.sr_instance_uid,
        instance_number=1,
        manufacturer=one_line(model.manufacturer),
        manufacturer_model_name=one_line(model.name),
        software_versions=one_line(model.version),
        device_serial_number=model.digest[:64],
        institution_name=one_line(result.institution) or None,
        series_description="Hilum AI findings, not verified",
        is_complete=True,
        is_final=False,
        is_verified=False,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    _patient_and_study(dataset, result)
    _times(dataset, result)
    _evidence_of_all_images(dataset, result)
    _contributing_equipment(dataset, result)
    _predecessor(dataset, result)
    _request(dataset, result)
    dataset.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    dataset.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    return dataset


def _patient_and_study(dataset: Dataset, result: Result) -> None:
    """PS3.3 C.7.1.1 and C.7.2.1: type 2, so each attribute is there, empty when it is not known."""
    header, patient = result.header, result.header.patient
    dataset.PatientName = person_name(patient.name)
    dataset.PatientID = identifier(patient.patient_id)
    if patient.issuer:
        dataset.IssuerOfPatientID = identifier(patient.issuer)
    dataset.PatientBirthDate = valid_date(patient.birth_date)
    dataset.PatientSex = patient.sex if patient.sex in {"M", "F", "O"} else ""
    dataset.AccessionNumber = identifier(header.accession_number)
    dataset.StudyID = identifier(header.study_id)
    dataset.StudyDate = valid_date(header.study_date)
    dataset.StudyTime = valid_time(header.study_time)
    dataset.ReferringPhysicianName = person_name(header.referring_physician)
    if header.study_description:
        dataset.StudyDescription = one_line(header.study_description)


def _times(dataset: Dataset, result: Result) -> None:
    created = in_object_zone(result.created_at, result)
    date, time = created.strftime("%Y%m%d"), created.strftime("%H%M%S")
    for keyword in ("ContentDate", "InstanceCreationDate", "SeriesDate"):
        setattr(dataset, keyword, date)
    for keyword in ("ContentTime", "InstanceCreationTime", "SeriesTime"):
        setattr(dataset, keyword, time)
    dataset.TimezoneOffsetFromUTC = offset_text(created)


def _evidence_of_all_images(dataset: Dataset, result: Result) -> None:
    """Every image that the model saw belongs to the current procedure's evidence (PS3.3 C.17.2.3)."""
    by_series: dict[str, list[Dataset]] = {}
    for image in images(result):
        reference = _reference(image.sop_class_uid, image.sop_instance_uid)
        by_series.setdefault(image.series_instance_uid, []).append(reference)
    dataset.CurrentRequestedProcedureEvidenceSequence = Sequence(
        [_study_item(result.header.study_instance_uid, by_series)]
    )
    if "PertinentOtherEvidenceSequence" in dataset:
        del dataset.PertinentOtherEvidenceSequence


def _study_item(study_uid: str, by_series: dict[str, list[Dataset]]) -> Dataset:
    """One item of the Hierarchical SOP Instance Reference Macro (PS3.3 C.17.2.1)."""
    study = Dataset()
    study.StudyInstanceUID = study_uid
    study.ReferencedSeriesSequence = Sequence()
    for series_uid, references in by_series.items():
        series = Dataset()
        series.SeriesInstanceUID = series_uid
        series.ReferencedSOPSequence = Sequence(references)
        study.ReferencedSeriesSequence.append(series)
    return study


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


def _contributing_equipment(dataset: Dataset, result: Result) -> None:
    """One item for the algorithm; its Device UID changes when the model does (PS3.3 C.12.1)."""
    model = result.findings.model
    item = Dataset()
    purpose = Dataset()
    # PS3.16 CID 7005
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = "109102", "DCM", "Processing Equipment"
    item.PurposeOfReferenceCodeSequence = Sequence([purpose])
    item.Manufacturer = one_line(model.manufacturer)
    item.ManufacturerModelName = one_line(model.name)
    item.SoftwareVersions = one_line(model.version)
    item.DeviceSerialNumber = model.digest[:64]
    item.DeviceUID = result.device_uid
    produced = in_object_zone(result.findings.produced_at, result)
    item.ContributionDateTime = produced.strftime("%Y%m%d%H%M%S") + offset_text(produced)
    item.ContributionDescription = lines(model.disclaimer)[:1024]
    dataset.ContributingEquipmentSequence = Sequence([item])


def _predecessor(dataset: Dataset, result: Result) -> None:
    """The SR of the earlier revision that this one replaces (PS3.3 C.17.2.2)."""
    if result.predecessor_sr_uid:
        reference = _reference(Comprehensive3DSRStorage, result.predecessor_sr_uid)
        dataset.PredecessorDocumentsSequence = Sequence(
            [_study_item(result.header.study_instance_uid, {result.predecessor_series_uid: [reference]})]
        )


def _request(dataset: Dataset, result: Result) -> None:
    """The order that the study was made for, when there is one (PS3.3 C.17.2, type 1C)."""
    header = result.header
    if not (header.accession_number or header.placer_order_number or header.filler_order_number):
        return
    request = Dataset()
    request.StudyInstanceUID = header.study_instance_uid
    request.ReferencedStudySequence = Sequence()
    request.AccessionNumber = identifier(header.accession_number)
    request.PlacerOrderNumberImagingServiceRequest = identifier(header.placer_order_number)
    request.FillerOrderNumberImagingServiceRequest = identifier(header.filler_order_number)
    request.RequestedProcedureID = ""
    request.RequestedProcedureDescription = one_line(header.procedure_meaning or header.study_description)
    request.RequestedProcedureCodeSequence = Sequence()
    if header.procedure_code and header.procedure_scheme and header.procedure_meaning:
        code = Dataset()
        code.CodeValue = identifier(header.procedure_code)
        code.CodingSchemeDesignator = one_line(header.procedure_scheme, 16)
        code.CodeMeaning = one_line(header.procedure_meaning)
        request.RequestedProcedureCodeSequence.append(code)
    dataset.ReferencedRequestSequence = Sequence([request])
