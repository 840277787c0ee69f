"""`hilum.toml`: what is accepted, and how a mistake is named."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilum.domain.inference import Lane, TaskKind
from hilum.runtime.config import ConfigError, Site, parse


def test_an_empty_file_is_the_default_site() -> None:
    assert parse("") == Site()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ae_titel = 'X'", "hilum.toml:1: ae_titel: unknown key"),
        ("\n\n[listener]\n# a comment\nquiet = 3\n", "hilum.toml:5: listener.quiet: unknown key"),
        (
            "[[rules]]\nname = 'a'\n[[rules]]\nname = 'b'\nmodality = ['CR']",
            "hilum.toml:5: rules.1.modality: unknown key",
        ),
        ("[listener]\nquiet_time_s = 'soon'", "hilum.toml:2: listener.quiet_time_s: Input should be a valid number"),
        ("[[destinations]]\nname = 'p'\nkind = 'dicom'", "hilum.toml:1: destinations.0.ae_title: Field required"),
        ("time_zone = 'Europe/Atlantis'", "hilum.toml:1: time_zone: Value error, 'Europe/Atlantis' is not a time zone"),
        ("ae_title = 'SEVENTEEN_LETTERS'", "hilum.toml:1: ae_title: String should have at most 16 characters"),
        ("ae_title = 'A\\\\B'", "hilum.toml:1: ae_title: String should match pattern"),
        ("worklist = 3", "hilum.toml:1: worklist: Input should be a valid dictionary"),
        ("[[rules]]\nname='a'\n[[rules]]\nname='a'", "two rules are named 'a'"),
        ("[model]\nservers = ['triton']", "hilum.toml:2: model.servers.0: String should match pattern"),
        ("[model]\ndigest = 'AB'", "hilum.toml:2: model.digest: String should match pattern"),
        (f"[model]\ndigest = '{'ab' * 32}'", "hilum.toml:1: model: Value error, a digest says which weights `servers`"),
        ("a = ", "hilum.toml: Invalid value"),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert expected in str(caught.value)


def test_every_mistake_is_named_at_once_in_the_order_of_the_lines() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("zzz = 1\naaa = 2\n[worker]\nattempts = 0\n")
    assert [line.split(":")[1] for line in str(caught.value).splitlines()] == ["1", "2", "4"]


def test_the_line_of_a_value_inside_an_array_over_several_lines_is_that_of_its_statement() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("[[rules]]\nname = 'a'\nmodalities = [\n  'CR',\n  7,\n]\n")
    assert "hilum.toml:3: rules.0.modalities.1" in str(caught.value)


def test_a_rule_becomes_tasks_in_order_and_a_lane() -> None:
    site = parse("[[rules]]\nname='r'\ntasks=['report']\nquestions=['Is there a nodule?']\nlane='stat'")
    (rule,) = site.domain_rules
    assert [task.kind for task in rule.tasks] == [TaskKind.REPORT, TaskKind.QUESTION]
    assert rule.lane is Lane.STAT


def test_destinations_are_no_simulation_unless_they_say_so() -> None:
    site = parse("[[destinations]]\nname='pacs'\nkind='dicom'\nae_title='PACS'\nhost='h'\nport=104")
    assert site.destinations[0].simulation is False


@given(st.text(alphabet=st.sampled_from(list("abc[]{}=\"'\n#.,1 ")), max_size=60))
def test_any_text_is_a_site_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(parse(text), Site)
