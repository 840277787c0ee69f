"""What the model is taught to say, and how what it says is scored."""

import numpy as np
import pytest

from hilum_medmo.grounding import parse
from hilum_modelops import answers
from hilum_modelops.evaluation import blobs, figures
from hilum_modelops.evaluation.questioning import Answered
from hilum_modelops.evaluation.scoring import Tally, iou, match
from hilum_modelops.generator import LABELS, Finding, render
from hilum_modelops.generator.labels import CARDIOMEGALY, NODULE, PNEUMOTHORAX

NODULES = [
    Finding(NODULE, (500.4, 700.0, 600.0, 1000.0), "left", "lower", 0.2),
    Finding(NODULE, (100.0, 200.0, 180.0, 280.0), "right", "upper", 0.2),
    Finding(PNEUMOTHORAX, (20.0, 30.0, 300.0, 400.0), "right", "upper", 0.1),
]


def test_labels_come_in_list_order_and_boxes_of_one_label_top_to_bottom() -> None:
    text = answers.locate_answer(NODULES)
    assert text == (
        "Pneumothorax <box>[[20, 30, 300, 400]]</box>, Nodule <box>[[100, 200, 180, 280], [500, 700, 600, 999]]</box>"
    )


def test_every_answer_is_in_the_runtimes_grammar() -> None:
    for seed in range(40):
        findings = render(seed, rows=100, cols=100).findings
        items = parse(answers.locate_answer(findings), no_finding=(answers.NO_FINDING,))
        assert sorted(item.label for item in items) == sorted({f.label for f in findings})


def test_a_report_names_what_is_there_and_nothing_else() -> None:
    for seed in range(120):
        findings = render(seed, rows=64, cols=64).findings
        assert figures.named_in(answers.report(findings)) == {f.label for f in findings}


def test_yes_and_no_follow_the_findings() -> None:
    rng = np.random.default_rng(0)
    asked = dict(answers.question(rng, NODULES) for _ in range(400))
    assert asked["Is there a pneumothorax?"] == "Yes."
    assert asked["Is the heart enlarged?"] == "No."
    assert asked["How many nodules are there?"] == "Two."
    assert asked["What abnormalities are present?"] == "Pneumothorax, nodule."


def test_iou_of_half_overlapping_boxes() -> None:
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0


def test_one_box_matches_one_finding_of_its_own_label() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    truth = [(NODULE, box), (NODULE, (0.0, 0.0, 10.0, 9.0)), (CARDIOMEGALY, box)]
    assert match(truth, [(NODULE, box)]) == [(0, 0, 1.0), (1, None, 0.0), (2, None, 0.0)]


def test_a_box_on_a_normal_counts_once_as_false_positive() -> None:
    tally = Tally()
    tally.add([], [(NODULE, (0, 0, 1, 1)), (NODULE, (2, 2, 3, 3))])
    tally.add([], [])
    assert tally.figures()["false_positive_normals"] == 0.5


def test_thresholds_follow_confidence() -> None:
    box, wrong = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)
    results = [
        Answered(
            seed=i, shape=(100, 100), truth=[(label, box) for label in LABELS], contrasts=[0.1] * len(LABELS),
            said=[(label, box if i < 40 else wrong, 0.4 - 0.005 * i) for label in LABELS], text="", malformed=False,
            report="", wanted_report="", asked=[], seconds=0.1,
        )
        for i in range(80)
    ]  # fmt: skip
    chosen = figures.calibrate(results)
    assert all(0.15 < row["report"] < row["urgent"] < 0.25 for row in chosen.values())


def test_the_blob_detector_answers_for_any_image() -> None:
    assert blobs.detect(np.zeros((64, 64), dtype=np.float32)) == []
    for seed in range(5):
        assert all(label in LABELS for label, _ in blobs.detect(render(seed, rows=128, cols=128).pixels))
