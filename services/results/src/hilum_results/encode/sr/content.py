"""The content tree of the report (PS3.16 TID 1500, 1410, 1501, 4019).

Coordinates are column\\row in pixels of the source frame, 0\\0 at the top left corner of the top left pixel
(PS3.3 C.18.6.1.1). Frames count from 1 and are named only when the source has several (PS3.3 C.18.4).
"""

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from highdicom.sr import CodedConcept, ContentSequence, QualitativeEvaluation
from pydicom.dataset import Dataset

from hilum.domain.findings import Findings
from hilum.domain.identity import derive_uid
from hilum.domain.inference import ImageReference, ModelIdentity
from hilum.domain.results import Result, describe
from hilum_results.encode import terminology as terms
from hilum_results.encode.canonical import CanonicalFinding, canonical
from hilum_results.encode.sr.text import lines, one_line

NO_FINDING = "No finding"


def report(result: Result) -> hd.sr.MeasurementReport:
    """The whole tree, its root at index 0."""
    model = result.findings.model
    tree = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(
            observer_device_context=hd.sr.ObserverContext(
                observer_type=hd.sr.CodedConcept("121007", "DCM", "Device"),
                observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
                    uid=result.device_uid,
                    name=lines(model.name),
                    manufacturer_name=lines(model.manufacturer),
                    model_name=lines(f"{model.name} {model.version}"),
                    serial_number=model.digest,
                ),
            )
        ),
        procedure_reported=_concept(terms.IMAGING_PROCEDURE),
        imaging_measurements=_groups(result),
    )
    tree[0].ContentSequence.append(_evaluations(result))
    return tree


def _groups(
    result: Result,
) -> list[hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations | hd.sr.MeasurementsAndQualitativeEvaluations]:
    findings = result.findings
    groups: list[
        hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations | hd.sr.MeasurementsAndQualitativeEvaluations
    ] = []
    for number, written in enumerate(canonical(result), start=1):
        groups.append(_region_group(result, number, written))
    if not groups:
        # Beside a TID 1410 group PixelMed's validator takes a TID 1501 group for another of the same and misses its
        # region, so labels without a region have groups of their own only where nothing has a region.
        for number, label in enumerate(findings.ungrounded, start=1):
            uid = derive_uid("ungrounded", result.key, str(number))
            groups.append(_presence_group(findings, label, f"{label}, no region {number}", uid, present=True))
    if not groups:
        groups.append(_presence_group(findings, "", NO_FINDING, derive_uid("no-finding", result.key), present=False))
    return groups


def _region_group(
    result: Result, number: int, written: CanonicalFinding
) -> hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """TID 1410 for one finding."""
    finding = result.findings.findings[number - 1]
    priority = terms.HIGH_PRIORITY if finding.urgent else terms.NORMAL_PRIORITY
    concept = terms.lookup(finding.label)
    box = written.box
    # A closed POLYLINE repeats its first point (PS3.3 C.18.6.1.2).
    outline = [(box.left, box.top), (box.right, box.top), (box.right, box.bottom), (box.left, box.bottom)]
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=finding.tracking_uid, identifier=f"{lines(finding.label)} {number}"
        ),
        referenced_region=hd.sr.ImageRegion(
            graphic_type=hd.sr.GraphicTypeValues.POLYLINE,
            graphic_data=np.array([*outline, outline[0]], dtype=np.float32),
            source_image=hd.sr.SourceImageForRegion(
                finding.image.sop_class_uid, finding.image.sop_instance_uid, _frames(finding.image)
            ),
        ),
        finding_type=_concept(terms.finding_code(finding.label)),
        finding_sites=[hd.sr.FindingSite(_concept(concept.site))] if concept and concept.site else None,
        algorithm_id=_algorithm(result.findings.model, result.findings.prompt_digest),
        measurements=[
            hd.sr.Measurement(
                name=_concept(terms.CERTAINTY), value=written.certainty_percent, unit=_concept(terms.PERCENT)
            )
        ],
        qualitative_evaluations=[QualitativeEvaluation(_concept(terms.PRIORITY), _concept(priority))],
        geometric_purpose=_concept(terms.BOUNDED_BY),
    )


def _presence_group(
    findings: Findings, label: str, tracking: str, uid: str, *, present: bool
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501 for what has no region: a label that the report names, or that nothing was found."""
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=uid, identifier=lines(tracking)),
        finding_type=_concept(terms.finding_code(label)) if label else None,
        algorithm_id=_algorithm(findings.model, findings.prompt_digest),
        qualitative_evaluations=[
            QualitativeEvaluation(_concept(terms.PRESENCE), _concept(terms.PRESENT if present else terms.ABSENT))
        ],
        source_images=[
            hd.sr.SourceImageForMeasurementGroup(image.sop_class_uid, image.sop_instance_uid, _frames(image))
            for image in findings.images
        ],
    )


def _algorithm(model: ModelIdentity, prompt_digest: str) -> hd.sr.AlgorithmIdentification:
    """TID 4019. The parameters say which weights, prompt and thresholds made the result."""
    limits = [
        f"threshold {label}: report {limit.report:g}, urgent {limit.urgent:g}"
        for label, limit in sorted(model.thresholds.items())
    ]
    return hd.sr.AlgorithmIdentification(
        name=lines(model.name),
        version=lines(model.version),
        manufacturer=lines(model.manufacturer),
        parameters=[f"weights SHA-256 {model.digest}", f"prompt SHA-256 {prompt_digest}", *limits],
        family=_concept(terms.ARTIFICIAL_INTELLIGENCE),
    )


def _evaluations(result: Result) -> hd.sr.ContainerContentItem:
    """The container Qualitative Evaluations of TID 1500: labels without a region, and everything that is text."""
    container = hd.sr.ContainerContentItem(
        name=CodedConcept("C0034375", "UMLS", "Qualitative Evaluations"),
        relationship_type=hd.sr.RelationshipTypeValues.CONTAINS,
    )
    container.ContentSequence = ContentSequence()
    for label in result.findings.ungrounded:
        container.ContentSequence.append(
            hd.sr.CodeContentItem(
                _concept(terms.FINDING),
                _concept(terms.finding_code(label)),
                relationship_type=hd.sr.RelationshipTypeValues.CONTAINS,
            )
        )
    for code, text in _texts(result):
        container.ContentSequence.append(
            hd.sr.TextContentItem(_concept(code), text, relationship_type=hd.sr.RelationshipTypeValues.CONTAINS)
        )
    return container


def _texts(result: Result) -> Sequence[tuple[terms.Code, str]]:
    findings = result.findings
    written = [
        (terms.COMMENT, f"{findings.model.disclaimer.rstrip('.')}. Made by AI; no person has verified it."),
        (terms.COMMENT, f"AI result {result.state}: {describe(findings)}"),
    ]
    if findings.report:
        written.append((terms.FINDING, findings.report))
    written += [(terms.COMMENT, f"Question: {a.question}\nAnswer: {a.text}") for a in findings.answers]
    written += [(terms.COMMENT, f"Named in the report without a region: {label}") for label in findings.ungrounded]
    written += [(terms.COMMENT, f"Not reported: {d.text} ({d.reason})") for d in findings.dropped]
    return [(code, lines(text)) for code, text in written if lines(text).strip()]


def _frames(image: ImageReference) -> list[int] | None:
    return [image.frame] if image.frames > 1 else None


def _concept(code: terms.Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, one_line(code.meaning))


def images(result: Result) -> list[ImageReference]:
    """Every image that the model saw or that a finding is on, once each, in order."""
    found: dict[str, ImageReference] = {}
    for image in (*result.findings.images, *(finding.image for finding in result.findings.findings)):
        found.setdefault(image.sop_instance_uid, image)
    return list(found.values())


def evidence(result: Result) -> list[Dataset]:
    """One dataset per source image with the attributes that the report takes over: identifiers, patient, study.

    Made from the canonical value alone, so an image that lacks ImagerPixelSpacing, has a broken character set or can no
    longer be read stops no report.
    """
    datasets = []
    for image in images(result):
        item = Dataset()
        item.SpecificCharacterSet = "ISO_IR 192"
        item.StudyInstanceUID = result.header.study_instance_uid
        item.SeriesInstanceUID = image.series_instance_uid
        item.SOPClassUID = image.sop_class_uid
        item.SOPInstanceUID = image.sop_instance_uid
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
            setattr(item, keyword, None)
        item.StudyDate = item.StudyTime = item.ReferringPhysicianName = None
        datasets.append(item)
    return datasets
