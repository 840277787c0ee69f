"""Reads Hilum's ORU back into the canonical findings."""

from collections.abc import Mapping

import hl7  # type: ignore[import-untyped]

from hilum.domain.errors import Reject
from hilum.domain.geometry import PixelBox
from hilum_results.encode.canonical import CanonicalFinding
from hilum_results.encode.oru.text import unescape
from hilum_results.encode.terminology import CERTAINTY, FINDING, IMAGE_REGION


def decode(data: bytes) -> tuple[CanonicalFinding, ...]:
    """The findings of every OBX group (by OBX-4) that has a region, in the order of the groups.

    Raises:
        Reject: a group with a region lacks its finding or certainty.
    """
    groups: dict[str, dict[str, hl7.Segment]] = {}
    for segment in hl7.parse(data.decode("utf-8")).segments("OBX"):
        code = str(segment[3]).split("^")[0]
        groups.setdefault(str(segment[4]), {}).setdefault(code, segment)
    return tuple(_finding(group) for group in groups.values() if IMAGE_REGION.value in group)


def _finding(group: Mapping[str, hl7.Segment]) -> CanonicalFinding:
    if FINDING.value not in group or CERTAINTY.value not in group:
        raise Reject("a group with a region lacks its finding or certainty")
    uid, frame, *edges = str(group[IMAGE_REGION.value][5]).split(" ")
    left, top, right, bottom = (float(edge) for edge in edges)
    return CanonicalFinding(
        label=unescape(str(group[FINDING.value][5]).split("^")[8]),
        box=PixelBox(left, top, right, bottom),
        sop_instance_uid=uid,
        frame=int(frame),
        certainty_percent=float(str(group[CERTAINTY.value][5])),
    )
