"""The adapter over hilum_medmo: prompts, grammar, confidence, stopping."""

import numpy as np
import pytest

from hilum.domain.errors import Busy, Reject
from hilum.domain.inference import Task, TaskKind
from hilum_medmo import Generation, ModelIdentity, RequestError, Threshold, Timings
from hilum_medmo.testing.scripted import ScriptedMedMO, answer
from hilum_worker.medmo import MedMOModel

IMAGE = np.zeros((32, 48, 3), np.uint8)
LOCATE, REPORT = Task(TaskKind.LOCATE), Task(TaskKind.REPORT)
IDENTITY = ModelIdentity(
    name="MedMO-Nano",
    version="0.2.0",
    digest="ab" * 32,
    simulation=True,
    disclaimer="not for patients",
    labels=("Nodule", "Fracture"),
    thresholds={"Nodule": Threshold(0.2, 0.7)},
    no_finding=("No abnormality detected.",),
    prompts={"locate": "find", "report": "tell"},
)


def model(**answers: str | Generation | Exception) -> MedMOModel:
    return MedMOModel(ScriptedMedMO(dict(answers), IDENTITY))


def test_identity_carries_thresholds_digest_and_the_simulation_mark() -> None:
    identity = model().identity
    assert (identity.name, identity.digest, identity.simulation) == ("MedMO-Nano", "ab" * 32, True)
    assert (identity.threshold("Nodule").report, identity.threshold("Nodule").urgent) == (0.2, 0.7)


def test_boxes_come_with_the_confidence_of_label_and_box() -> None:
    said = answer("Nodule <box>[[10, 20, 30, 40], [50, 60, 70, 80]]</box>", probability=0.99)
    found = model(find=said).answer(LOCATE, IMAGE).findings
    assert [(each.label, each.box) for each in found] == [("Nodule", (10, 20, 30, 40)), ("Nodule", (50, 60, 70, 80))]
    # eleven tokens of label and tag, then the geometric mean of the box's digits
    assert found[0].probability == pytest.approx(0.99**11 * 0.99)


@pytest.mark.parametrize("text", ["", "No abnormality detected.", "no abnormality detected"])
def test_a_well_formed_empty_answer_is_no_finding(text: str) -> None:
    assert model(find=text).answer(LOCATE, IMAGE).findings == ()


@pytest.mark.parametrize("text", ["Nodule", "Nodule <box>[[1, 2, 3]]</box>", "Nodule <box>[[900, 0, 100, 50]]</box>"])
def test_an_answer_outside_the_grammar_is_rejected_with_the_reason(text: str) -> None:
    with pytest.raises(Reject, match=r"the model's answer could not be read: .* at character"):
        model(find=text).answer(LOCATE, IMAGE)


def test_an_unfinished_answer_is_rejected() -> None:
    with pytest.raises(Reject, match="not finished after"):
        model(tell=answer("There is a", finish="length")).answer(REPORT, IMAGE)


def test_a_cancelled_answer_is_busy_so_that_the_job_goes_back() -> None:
    stopping = MedMOModel(ScriptedMedMO({"tell": "x"}, IDENTITY), should_stop=lambda: True)
    with pytest.raises(Busy):
        stopping.answer(REPORT, IMAGE)


def test_a_request_that_the_model_refuses_is_rejected() -> None:
    with pytest.raises(Reject, match="too long"):
        model(tell=RequestError("prompt too long")).answer(REPORT, IMAGE)


def test_questions_are_asked_in_plain_text_of_bounded_length() -> None:
    asked = Task(TaskKind.QUESTION, "Is there\x00\x1b[31m a nodule?\n" + "x" * 900)
    prompt = model().prompt(asked)
    assert prompt.startswith("Is there [31m a nodule?")
    assert len(prompt) <= 500
    assert prompt.isprintable()


def test_a_checkpoint_without_declared_prompts_gets_medmos_own() -> None:
    plain = ModelIdentity("x", "1", "0" * 64, False, "d")
    found = MedMOModel(ScriptedMedMO({}, plain)).prompt(LOCATE)
    assert found == "Detect and localize all abnormalities in this image."


def test_seconds_are_the_models_own() -> None:
    generation = Generation("Yes.", (), "stop", Timings(0.5, 1.0, 0.25))
    assert model(q=generation).answer(Task(TaskKind.QUESTION, "q"), IMAGE).seconds == pytest.approx(1.75)
