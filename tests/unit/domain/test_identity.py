"""UIDs and digests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilum.domain.identity import derive_uid, digest_of, is_valid_uid, study_key


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_a_derived_uid_is_valid_and_repeats(parts: list[str]) -> None:
    uid = derive_uid(*parts)
    assert is_valid_uid(uid)
    assert uid == derive_uid(*parts)


def test_parts_are_not_merely_joined() -> None:
    assert digest_of("ab", "c") != digest_of("a", "bc")
    assert derive_uid("1", "23") != derive_uid("12", "3")


@pytest.mark.parametrize("uid", ["1.2.840.10008.1.1", "0.1", "2.25.0"])
def test_uids_of_the_standard_are_valid(uid: str) -> None:
    assert is_valid_uid(uid)


@pytest.mark.parametrize("uid", ["", "1", "1..2", "1.02", "1.2.", ".1.2", "1.a", "../../etc", "1.2\n", "1." + "2" * 63])
def test_other_text_is_no_uid(uid: str) -> None:
    assert not is_valid_uid(uid)


def test_a_study_key_does_not_contain_the_uid() -> None:
    assert "1.2.3" not in study_key("1.2.3")
    assert len(study_key("1.2.3")) == 16
