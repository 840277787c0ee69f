"""Messages: examples of each, old reader and new writer, and nothing in them that names a patient."""

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from pydantic import ValidationError

from hilum.contracts.catalogue import EXAMPLES, MESSAGES, SCHEMAS
from hilum.contracts.messages import FindingsProduced, InferenceRequested, Message, StudyEnded, StudyReady
from hilum.contracts.topics import TOPICS

LAST_RELEASE = Path(__file__).parents[1] / "fixtures" / "last_release"
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


@pytest.mark.parametrize("name", MESSAGES)
def test_an_older_reader_ignores_what_a_newer_writer_added(name: str) -> None:
    assert MESSAGES[name].model_validate({**example(name), "added_later": [1, 2]}) == MESSAGES[name].model_validate(
        example(name)
    )


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_of_another_version_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        MESSAGES[name].model_validate({**example(name), "schema_version": f"{name}/2"})


@pytest.mark.parametrize("name", MESSAGES)
def test_the_kept_schema_is_the_one_of_the_class(name: str) -> None:
    kept = json.loads((SCHEMAS / f"{name}.json").read_text())
    assert kept == MESSAGES[name].model_json_schema(), "python -m hilum.contracts.catalogue writes it anew"


@pytest.mark.parametrize("name", MESSAGES)
def test_no_field_could_carry_a_patient(name: str) -> None:
    fields = json.dumps(MESSAGES[name].model_json_schema()["properties"]) + json.dumps(
        MESSAGES[name].model_json_schema().get("$defs", {})
    )
    assert "patient" not in fields.lower()
    assert "accession" not in fields.lower()


def test_classes_schemas_examples_and_topics_name_the_same_messages() -> None:
    names = set(MESSAGES)
    assert {path.stem for path in SCHEMAS.iterdir()} == names
    assert {path.stem for path in EXAMPLES.iterdir()} == names
    assert {topic.schema for topic in TOPICS} == names
    assert [MESSAGES[name].model_fields["schema_version"].default.split("/")[0] for name in MESSAGES] == list(MESSAGES)


@pytest.mark.parametrize("name", MESSAGES)
def test_an_example_is_valid_under_its_schema(name: str) -> None:
    jsonschema.validate(example(name), json.loads((SCHEMAS / f"{name}.json").read_text()))


def test_every_topic_has_an_owner_a_key_and_a_reason() -> None:
    assert all(topic.owner and topic.key and topic.why for topic in TOPICS)
    assert all(topic.partitions > 0 and topic.retention_days > 0 and topic.cleanup == "delete" for topic in TOPICS)
    assert len({topic.name for topic in TOPICS}) == len(TOPICS)


def of_last_release(kind: str, name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((LAST_RELEASE / kind / f"{name}.json").read_text())
    return value


def parts(schema: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The message itself and each item in it, by name."""
    return {"": schema, **schema.get("$defs", {})}


@pytest.mark.parametrize("name", CLASSES)
def test_what_the_last_release_wrote_is_read_by_this_one(name: str) -> None:
    old = of_last_release("examples", name)
    read = MESSAGES[name].model_validate(old).model_dump(mode="json")
    assert {field: read[field] for field in old} == old


@pytest.mark.parametrize("name", CLASSES)
def test_what_this_release_writes_is_read_by_the_last_one(name: str) -> None:
    jsonschema.validate(example(name), of_last_release("schemas", name))


@pytest.mark.parametrize("name", CLASSES)
def test_under_one_version_a_field_keeps_its_meaning_and_new_ones_may_be_missing(name: str) -> None:
    old, new = of_last_release("schemas", name), json.loads((SCHEMAS / f"{name}.json").read_text())
    assert new["properties"]["schema_version"] == old["properties"]["schema_version"]
    for part, was in parts(old).items():
        now = parts(new)[part]
        if "enum" in was:  # a value that the last release doesn't know would be refused by it
            assert now == was, part
            continue
        kept = {field: now["properties"].get(field) for field in was["properties"]}
        assert kept == was["properties"], part
        assert set(now.get("required", [])) == set(was.get("required", [])), part


def test_messages_are_values() -> None:
    assert Message.model_config["frozen"] is True


@pytest.mark.parametrize("name", ["study.ready", "inference.requested"])
def test_a_message_without_earlier_studies_as_0_2_wrote_it_is_read_as_one_with_none(name: str) -> None:
    before = {key: value for key, value in example(name).items() if key != "priors"}
    message = CLASSES[name].model_validate(before)
    assert isinstance(message, StudyReady | InferenceRequested)
    assert message.priors == ()
    assert message.to_domain().priors == ()
