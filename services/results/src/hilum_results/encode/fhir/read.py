"""Reads Hilum's bundle back into the canonical findings."""

import json
from collections.abc import Mapping
from typing import Any

from hilum.domain.errors import Reject
from hilum.domain.geometry import PixelBox
from hilum_results.encode.canonical import CanonicalFinding
from hilum_results.encode.terminology import CERTAINTY, IMAGE_REGION


def decode(data: bytes) -> tuple[CanonicalFinding, ...]:
    """The findings of every Observation with a region, in the bundle's order.

    Raises:
        Reject: an Observation with a region lacks its certainty or its outline is not a box.
    """
    resources = [entry["resource"] for entry in json.loads(data)["entry"]]
    found = [r for r in resources if r["resourceType"] == "Observation" and _component(r, IMAGE_REGION.value)]
    return tuple(_finding(resource) for resource in found)


def _finding(resource: Mapping[str, Any]) -> CanonicalFinding:
    region_component, certainty = _component(resource, IMAGE_REGION.value), _component(resource, CERTAINTY.value)
    if region_component is None or certainty is None:
        raise Reject("a finding lacks its certainty")
    region = json.loads(region_component["valueString"])
    points = region["GraphicData"]
    box = PixelBox(min(points[0::2]), min(points[1::2]), max(points[0::2]), max(points[1::2]))
    return CanonicalFinding(
        label=resource["valueCodeableConcept"]["text"],
        box=box,
        sop_instance_uid=region["ReferencedSOPInstanceUID"],
        frame=region["ReferencedFrameNumber"],
        certainty_percent=float(certainty["valueQuantity"]["value"]),
    )


def _component(resource: Mapping[str, Any], code: str) -> Mapping[str, Any] | None:
    for component in resource.get("component", []):
        if any(coding["code"] == code for coding in component["code"]["coding"]):
            found: Mapping[str, Any] = component
            return found
    return None
