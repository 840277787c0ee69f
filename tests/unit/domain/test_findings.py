"""What becomes of the model's boxes before anyone sees them."""

from datetime import UTC, datetime

from hilum.domain.findings import Findings, Grounded, accept
from hilum.domain.geometry import PixelBox
from hilum.domain.inference import ImageReference, ModelIdentity, Threshold
from hilum.domain.results import AiState, describe, result_key, state_of

IMAGE = ImageReference("1.2", "1.2.3", "1.2.840.10008.5.1.4.1.1.1", "spool:x", frame=1, frames=1, rows=100, columns=200)
MODEL = ModelIdentity(
    "M", "1", "d" * 64, simulation=True, disclaimer="d", thresholds={"Nodule": Threshold(report=0.4, urgent=0.8)}
)


def grounded(probability: float, box: PixelBox | None = None, label: str = "Nodule") -> Grounded:
    return Grounded(label, box or PixelBox(10, 10, 50, 50), IMAGE, probability)


def findings_of(*candidates: Grounded, ungrounded: tuple[str, ...] = ()) -> Findings:
    kept, dropped = accept(candidates, MODEL, study_instance_uid="1.2.9", revision=1)
    return Findings(
        "r", "1.2.9", 1, MODEL, "p", (IMAGE,), kept, dropped, "", ungrounded, (), datetime(2026, 1, 1, tzinfo=UTC)
    )


def test_a_finding_below_its_report_threshold_is_dropped_with_the_reason() -> None:
    found = findings_of(grounded(0.39))
    assert found.findings == ()
    assert found.dropped[0].reason == "probability 0.39 is below the threshold 0.40"


def test_a_finding_at_the_urgent_threshold_is_urgent_and_one_between_is_not() -> None:
    assert [f.urgent for f in findings_of(grounded(0.8), grounded(0.79)).findings] == [True, False]


def test_a_label_without_a_threshold_is_reported_and_never_urgent() -> None:
    (finding,) = findings_of(grounded(1.0, label="Something new")).findings
    assert not finding.urgent


def test_a_box_outside_its_image_is_dropped() -> None:
    found = findings_of(grounded(0.9, PixelBox(150, 50, 201, 60)))
    assert found.dropped[0].reason == "the box reaches outside the image"


def test_tracking_uids_depend_on_the_place_and_not_on_the_content() -> None:
    first = findings_of(grounded(0.9), grounded(0.95)).findings
    second = findings_of(grounded(0.5, PixelBox(0, 0, 1, 1)), grounded(0.6)).findings
    assert [f.tracking_uid for f in first] == [f.tracking_uid for f in second]
    assert first[0].tracking_uid != first[1].tracking_uid


def test_a_label_that_only_the_report_names_makes_the_study_positive() -> None:
    assert state_of(findings_of()) is AiState.NEGATIVE
    flagged = findings_of(ungrounded=("Fracture",))
    assert state_of(flagged) is AiState.POSITIVE
    assert describe(flagged) == "Fracture (in the report, without a box)"


def test_a_negative_state_names_the_model_whose_thresholds_it_holds_for() -> None:
    assert describe(findings_of()) == "no finding above the thresholds of M 1"


def test_a_result_has_one_identity_per_revision_and_model() -> None:
    assert result_key("1.2", 1, "a") == result_key("1.2", 1, "a")
    assert len({result_key("1.2", 1, "a"), result_key("1.2", 2, "a"), result_key("1.2", 1, "b")}) == 3
