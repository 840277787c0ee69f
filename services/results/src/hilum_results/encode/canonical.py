"""What every format must carry of a finding, in the precision that every format can hold.

A reader of each format returns this list, so "the formats say the same" is an equality and not a judgement.
"""

from dataclasses import dataclass

from hilum.domain.geometry import PixelBox
from hilum.domain.results import Result

COORDINATE_DECIMALS = 3
"""MedMO's grid gives at most three decimals, and FL (32 bits) holds them for images of up to 16384 pixels a side."""

PERCENT_DECIMALS = 2


@dataclass(frozen=True, slots=True)
class CanonicalFinding:
    """One finding as it is written.

    Attributes:
        box: pixels of the original frame, 0\\0 at the top left corner of the top left pixel; three decimals.
        frame: counts from 1.
        certainty_percent: 0 to 100, two decimals.
    """

    label: str
    box: PixelBox
    sop_instance_uid: str
    frame: int
    certainty_percent: float


def rounded(box: PixelBox) -> PixelBox:
    """The box with the decimals that all formats carry.

    A box thinner than that precision keeps its edges apart by one unit of it, so it never becomes empty.
    """
    left, top = round(box.left, COORDINATE_DECIMALS), round(box.top, COORDINATE_DECIMALS)
    unit = 10.0**-COORDINATE_DECIMALS
    right = max(round(box.right, COORDINATE_DECIMALS), round(left + unit, COORDINATE_DECIMALS))
    bottom = max(round(box.bottom, COORDINATE_DECIMALS), round(top + unit, COORDINATE_DECIMALS))
    return PixelBox(left, top, right, bottom)


def percent(probability: float) -> float:
    """A probability of 0 to 1 in percent, two decimals."""
    return round(probability * 100, PERCENT_DECIMALS)


def canonical(result: Result) -> tuple[CanonicalFinding, ...]:
    """The result's findings, in their order, as every format carries them."""
    return tuple(
        CanonicalFinding(
            label=finding.label,
            box=rounded(finding.box),
            sop_instance_uid=finding.image.sop_instance_uid,
            frame=finding.image.frame,
            certainty_percent=percent(finding.probability),
        )
        for finding in result.findings.findings
    )
