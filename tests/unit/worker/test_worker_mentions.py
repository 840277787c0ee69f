"""Which findings a report states: the negation check, sentence by sentence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilum_worker.handlers.mentions import present

LABELS = ("Pneumothorax", "Pleural effusion", "Consolidation", "Nodule", "Cardiomegaly", "Fracture")


@pytest.mark.parametrize(
    ("sentence", "stated"),
    [
        ("There is a left pneumothorax.", ["Pneumothorax"]),
        ("No pneumothorax.", []),
        ("No pneumothorax or pleural effusion.", []),
        ("No focal consolidation, pleural effusion, or pneumothorax.", []),
        ("There is no pneumothorax.", []),
        ("Without evidence of consolidation.", []),
        ("Negative for fracture.", []),
        ("The lungs are free of nodules.", []),
        ("No pneumothorax, but there is a small effusion.", ["Pleural effusion"]),
        ("No consolidation; a nodule in the left upper zone.", ["Nodule"]),
        ("No pneumothorax. There is a nodule.", ["Nodule"]),
        ("There is a nodule without consolidation.", ["Nodule"]),
        ("Pneumothorax is not seen.", []),
        ("The effusion has resolved.", []),
        ("Pneumothorax: none.", []),
        ("Pneumothorax: None. Effusion: No. Impression: Nodule.", ["Nodule"]),
        ("Nodules are present in both lungs.", ["Nodule"]),
        ("The heart is enlarged.", ["Cardiomegaly"]),
        ("The heart is mildly enlarged.", ["Cardiomegaly"]),
        ("The heart is not enlarged.", []),
        ("The heart size is normal.", []),
        ("There is a displaced left rib fracture.", ["Fracture"]),
        ("There is a displaced left and right rib fracture.", ["Fracture"]),
        ("The bones are intact.", []),
        ("A pneumothorax cannot be excluded.", ["Pneumothorax"]),
        ("Cannot exclude consolidation.", ["Consolidation"]),
        ("Possible nodule in the right lung.", ["Nodule"]),
        ("Not only a nodule but also an effusion.", ["Pleural effusion", "Nodule"]),
        ("No change in the nodule.", ["Nodule"]),
        ("PNEUMOTHORAX ON THE LEFT", ["Pneumothorax"]),
        ("The pneumothoraces are large.", ["Pneumothorax"]),
        ("Neither effusion nor pneumothorax.", []),
        ("", []),
    ],
)
def test_a_sentence_states_exactly_these_findings(sentence: str, stated: list[str]) -> None:
    assert list(present(sentence, LABELS)) == stated


def test_the_wording_of_nano_is_read_right() -> None:
    report = (
        "Findings: There is a nodule in the left upper zone. No pneumothorax. There is a right pleural effusion."
        " The heart size is normal. The bones are intact. Impression: Right pleural effusion."
        " Nodule in the left upper zone."
    )
    assert present(report, LABELS) == ("Pleural effusion", "Nodule")
    normal = (
        "Findings: The lungs are clear. No pneumothorax. No pleural effusion. The heart size is normal."
        " The bones are intact. Impression: No acute abnormality."
    )
    assert present(normal, LABELS) == ()


def test_a_finding_that_one_sentence_denies_and_another_states_is_present() -> None:
    assert present("No nodule on the right. A nodule on the left.", LABELS) == ("Nodule",)


@given(st.text(max_size=300))
def test_any_text_is_read_without_error(text: str) -> None:
    assert set(present(text, LABELS)) <= set(LABELS)
