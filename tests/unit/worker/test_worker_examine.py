"""From a request to findings, with a model that follows a rule."""

from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from hilum.domain.errors import Reject, Retry
from hilum.domain.findings import Answer, Findings
from hilum.domain.inference import InferenceRequest, Task, TaskKind
from hilum.domain.results import AiState, state_of
from hilum.ports.model import GridFinding, ModelAnswer
from hilum.testing.clock import SetClock
from hilum.testing.dicom_files import chest_image, write
from hilum.testing.model import FakeModel
from hilum_worker.ask import ask_about
from hilum_worker.handlers.examine import examine

from .conftest import NOW, Bench, with_spot


def look(bench: Bench, request: InferenceRequest, model: FakeModel | None = None) -> Findings:
    clock = SetClock(NOW + timedelta(seconds=3))
    return examine(request, model or FakeModel(), bench.store, clock, claimed_at=NOW + timedelta(seconds=1))


def test_boxes_return_to_the_pixels_of_the_original_image(bench: Bench) -> None:
    image = bench.image(with_spot(1500, 3000), "a")
    found = look(bench, bench.request(image))
    [finding] = found.findings
    box = finding.box
    assert (box.left, box.top, box.right, box.bottom) == pytest.approx((750, 300, 1500, 600), abs=6)
    assert finding.image == image
    assert finding.label == "Nodule"
    assert 0.85 < finding.probability < 0.95
    assert not finding.urgent
    assert state_of(found) is AiState.POSITIVE


def test_boxes_of_an_image_with_oblong_pixels_lie_on_its_stored_pixels(bench: Bench) -> None:
    image = bench.image(with_spot(100, 200), "a", PixelAspectRatio=[2, 1])
    model = FakeModel()
    [finding] = look(bench, bench.request(image), model).findings
    assert model.asked[0][1] == (200, 200, 3)
    box = finding.box
    assert (box.left, box.top, box.right, box.bottom) == pytest.approx((50, 20, 100, 40), abs=1)


def test_nothing_found_is_negative_with_report_and_timings(bench: Bench) -> None:
    found = look(bench, bench.request(bench.image(np.full((50, 50), 40, np.uint8), "a")))
    assert state_of(found) is AiState.NEGATIVE
    assert found.report == "No nodule. No pneumothorax."
    assert found.ungrounded == ()
    timings = dict(found.timings_s)
    assert timings["queue"] == 1.0
    assert timings["decode"] > 0
    assert timings["model"] == pytest.approx(0.02)
    assert found.produced_at == NOW + timedelta(seconds=3)


def test_a_label_in_the_report_without_a_box_is_flagged(bench: Bench) -> None:
    model = FakeModel(says={TaskKind.LOCATE: ModelAnswer("", (), 0.0)})
    found = look(bench, bench.request(bench.image(with_spot(), "a")), model)
    assert found.ungrounded == ("Nodule",)
    assert state_of(found) is AiState.POSITIVE


def test_what_is_not_reported_is_kept_with_its_reason(bench: Bench) -> None:
    said = ModelAnswer(
        "",
        (
            GridFinding("Nodule", (0, 0, 100, 100), 0.2),
            GridFinding("Unicorn", (0, 0, 100, 100), 0.9),
            GridFinding("Nodule", (50, 50, 50, 80), 0.9),
            GridFinding("nodule", (0, 0, 500, 500), 0.96),
        ),
        0.0,
    )
    found = look(bench, bench.request(bench.image(with_spot(), "a")), FakeModel(says={TaskKind.LOCATE: said}))
    assert [(f.label, f.urgent) for f in found.findings] == [("Nodule", True)]
    reasons = {(d.text, d.reason) for d in found.dropped}
    assert ("Unicorn", "not one of the labels that this model was trained on") in reasons
    assert ("Nodule", "probability 0.20 is below the threshold 0.50") in reasons
    assert any("empty or outside" in reason for _, reason in reasons)


def test_images_are_asked_one_at_a_time_and_findings_carry_theirs(bench: Bench) -> None:
    first = bench.image(np.full((50, 50), 40, np.uint8), "a")
    second = bench.image(with_spot(), "b")
    question = Task(TaskKind.QUESTION, "Is there a nodule?")
    model = FakeModel()
    found = look(bench, bench.request(first, second, tasks=(Task(TaskKind.LOCATE), question)), model)
    assert [finding.image for finding in found.findings] == [second]
    assert found.images == (first, second)
    assert found.answers == (
        Answer("Is there a nodule? (image 1 of 2)", "No."),
        Answer("Is there a nodule? (image 2 of 2)", "Yes."),
    )
    assert [shape for _, shape in model.asked] == [(50, 50, 3)] * 2 + [(100, 200, 3)] * 2


def test_reports_of_several_images_say_which_image(bench: Bench) -> None:
    images = [bench.image(with_spot(), name) for name in "ab"]
    found = look(bench, bench.request(*images, tasks=(Task(TaskKind.REPORT),)))
    assert found.report.splitlines() == [
        "Image 1 of 2: There is a nodule. No pneumothorax.",
        "Image 2 of 2: There is a nodule. No pneumothorax.",
    ]
    assert found.ungrounded == ("Nodule",)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"Rows": 65000, "Columns": 65000}, "claims 65000 x 65000"),
        ({"Rows": 50}, "the stored image is 50 x 200 pixels, the request says 100 x 200"),
        ({"PixelData": None}, "no pixel data"),
    ],
)
def test_an_image_that_cannot_be_shown_is_rejected_and_named(bench: Bench, damage: dict[str, Any], reason: str) -> None:
    good, bad = bench.image(with_spot(), "a"), bench.image(with_spot(), "b")
    write(bench.store.path(bad.uri), chest_image(with_spot(), **damage))
    with pytest.raises(Reject, match=f"image 2 of 2: .*{reason}"):
        look(bench, bench.request(good, bad))


def test_an_image_that_is_not_there_yet_is_tried_again(bench: Bench) -> None:
    image = bench.image(with_spot(), "a")
    bench.store.path(image.uri).unlink()
    with pytest.raises(Retry):
        look(bench, bench.request(image))


def test_a_request_without_images_is_rejected(bench: Bench) -> None:
    with pytest.raises(Reject, match="names no image"):
        look(bench, bench.request())


def test_the_same_request_gives_the_same_findings(bench: Bench) -> None:
    request = bench.request(bench.image(with_spot(), "a"))
    first, second = look(bench, request), look(bench, request)
    assert (first.findings, first.prompt_digest, first.report) == (
        second.findings,
        second.prompt_digest,
        second.report,
    )


def test_a_free_question_is_answered_about_the_chosen_image(bench: Bench) -> None:
    images = (bench.image(np.full((50, 50), 40, np.uint8), "a"), bench.image(with_spot(), "b"))
    said = ask_about(images, " Is there a nodule? ", FakeModel(), bench.store, image=2)
    assert (said.text, said.question, said.image, said.images) == ("Yes.", "Is there a nodule?", images[1], 2)
    assert ask_about(images, "x", FakeModel(), bench.store).text == "No."
    with pytest.raises(Reject, match="2 images"):
        ask_about(images, "x", FakeModel(), bench.store, image=3)
    with pytest.raises(Reject, match="empty"):
        ask_about(images, "  ", FakeModel(), bench.store)
