"""Reads Hilum's SR back into the canonical findings, for checks: what was sent says what was meant."""

import io
from collections.abc import Iterator

import pydicom
from pydicom.dataset import Dataset

from hilum.domain.errors import Reject
from hilum.domain.geometry import PixelBox
from hilum_results.encode.canonical import COORDINATE_DECIMALS, CanonicalFinding


def decode(data: bytes) -> tuple[CanonicalFinding, ...]:
    """The findings of a TID 1500 report in the order of its measurement groups with a region.

    Raises:
        Reject: a group with a region lacks what every finding has, or its outline is not the box of its corners.
    """
    root = pydicom.dcmread(io.BytesIO(data))
    return tuple(_finding(group) for group in _groups(root) if _child(group, "111030"))


def _groups(root: Dataset) -> Iterator[Dataset]:
    for container in root.ContentSequence:
        if _name(container) == "126010":
            yield from (group for group in container.get("ContentSequence", []) if _name(group) == "125007")


def _finding(group: Dataset) -> CanonicalFinding:
    region, tracking = _needed(group, "111030"), _needed(group, "112039")
    certainty = _needed(group, "111012")
    reference = region.ContentSequence[0].ReferencedSOPSequence[0]
    points = [round(float(value), COORDINATE_DECIMALS) for value in region.GraphicData]
    columns, rows = points[0::2], points[1::2]
    box = PixelBox(min(columns), min(rows), max(columns), max(rows))
    corners = [box.left, box.top, box.right, box.top, box.right, box.bottom, box.left, box.bottom, box.left, box.top]
    if points != corners:
        raise Reject("a region's outline is not a box of five points")
    frame = reference.get("ReferencedFrameNumber", 1)
    return CanonicalFinding(
        label=str(tracking.TextValue).rsplit(" ", 1)[0],
        box=box,
        sop_instance_uid=str(reference.ReferencedSOPInstanceUID),
        frame=int(frame),
        certainty_percent=float(certainty.MeasuredValueSequence[0].NumericValue),
    )


def _name(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""


def _child(item: Dataset, code: str) -> Dataset | None:
    return next((child for child in item.get("ContentSequence", []) if _name(child) == code), None)


def _needed(item: Dataset, code: str) -> Dataset:
    child = _child(item, code)
    if child is None:
        raise Reject(f"a measurement group lacks {code}")
    return child
