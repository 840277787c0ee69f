"""Messages: examples of each, old reader and new writer, and nothing in them that names a patient."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hilum.contracts.messages import FindingsProduced, InferenceRequested, Message, StudyEnded, StudyReady
from hilum.contracts.topics import TOPICS

EXAMPLES = Path(__file__).parents[2] / "shared/hilum/src/hilum/contracts/examples"
CLASSES: dict[str, type[StudyReady] | type[InferenceRequested] | type[FindingsProduced] | type[StudyEnded]] = {
    "study.ready": StudyReady,
    "inference.requested": InferenceRequested,
    "findings.produced": FindingsProduced,
    "study.ended": StudyEnded,
}


def example(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((EXAMPLES / f"{name}.json").read_text())
    return value


@pytest.mark.parametrize("name", CLASSES)
def test_an_example_goes_through_the_domain_and_comes_back_the_same(name: str) -> None:
    kind = CLASSES[name]
    message = kind.model_validate(example(name))
    back = kind.from_domain(message.to_domain())  # type: ignore[arg-type]
    assert back == message
    assert json.loads(back.model_dump_json()) == example(name)


@pytest.mark.parametrize("name", CLASSES)
def test_an_older_reader_ignores_what_a_newer_writer_added(name: str) -> None:
    assert CLASSES[name].model_validate({**example(name), "added_later": [1, 2]}) == CLASSES[name].model_validate(
        example(name)
    )


@pytest.mark.parametrize("name", CLASSES)
def test_a_message_of_another_version_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        CLASSES[name].model_validate({**example(name), "schema_version": f"{name}/2"})


@pytest.mark.parametrize("name", CLASSES)
def test_the_kept_schema_is_the_one_of_the_class(name: str) -> None:
    kept = json.loads((EXAMPLES.parent / "schemas" / f"{name}.json").read_text())
    assert kept == CLASSES[name].model_json_schema()


@pytest.mark.parametrize("name", CLASSES)
def test_no_field_could_carry_a_patient(name: str) -> None:
    fields = json.dumps(CLASSES[name].model_json_schema()["properties"]) + json.dumps(
        CLASSES[name].model_json_schema().get("$defs", {})
    )
    assert "patient" not in fields.lower()
    assert "accession" not in fields.lower()


def test_every_topic_has_an_owner_and_a_reason() -> None:
    assert all(topic.owner and topic.why and topic.partitions > 0 for topic in TOPICS)


def test_messages_are_values() -> None:
    assert Message.model_config["frozen"] is True
