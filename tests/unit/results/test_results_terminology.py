"""The table of codes, compared with pydicom's copy of PS3.16 where that has the code."""

import pytest
from pydicom.sr._concepts_dict import concepts

from hilum_results.encode import terminology as terms

CONCEPTS: dict[str, dict[str, dict[str, tuple[str, list[int]]]]] = concepts  # type: ignore[assignment]
STANDARD = {
    (scheme, value): meaning
    for scheme in ("SCT", "DCM")
    for keyword in CONCEPTS[scheme].values()
    for value, (meaning, _) in keyword.items()
}
OURS = [c.finding for c in terms.LABELS.values()] + [c.site for c in terms.LABELS.values() if c.site]
OURS += [terms.PRIORITY, terms.PRESENT, terms.BOUNDED_BY, terms.IMAGING_PROCEDURE, terms.FINDING, terms.COMMENT]
OURS += [terms.CERTAINTY, terms.IMAGE_REGION, terms.TRACKING_UID, terms.ARTIFICIAL_INTELLIGENCE]


@pytest.mark.parametrize("code", OURS, ids=lambda c: c.value)
def test_every_code_that_the_standard_lists_has_the_standards_meaning(code: terms.Code) -> None:
    meaning = STANDARD.get((code.scheme, code.value))
    not_in_part_16 = {"95436008", "8186001", "125605004"}
    assert (meaning is None) == (code.value in not_in_part_16)
    if meaning is not None:
        assert code.meaning.lower() in meaning.lower()


def test_each_of_nanos_labels_has_a_code_in_any_case_and_in_the_plural() -> None:
    for label in ("Pneumothorax", "pleural EFFUSION", "Consolidation", "nodule", "Cardiomegaly", "Fractures"):
        assert terms.finding_code(label).scheme == "SCT"


def test_an_unknown_label_keeps_its_text_and_gets_no_guessed_code() -> None:
    code = terms.finding_code("Possible tracheal deviation")
    assert code.scheme == "99HILUM"
    assert code.meaning == "Possible tracheal deviation"
    assert len(code.value) <= 16
    assert terms.lookup("Possible tracheal deviation") is None


def test_two_unknown_labels_have_different_codes() -> None:
    assert terms.finding_code("One thing").value != terms.finding_code("Other thing").value
