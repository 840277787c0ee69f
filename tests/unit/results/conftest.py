"""R4 validation in three independent libraries, and what none of them sees (shared standards notes)."""

import gzip
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import fhirkit
import pytest
from fhir.resources.R4B.bundle import Bundle
from pyrofile_validator import Validator
from pyrofile_validator.config import ValidatorConfig

DEFINITIONS = Path(__file__).with_name("r4-definitions.json.gz")


@cache
def _validator() -> Validator:
    definitions = json.loads(gzip.decompress(DEFINITIONS.read_bytes()))["definitions"]
    for system in definitions:
        if system.get("url") == "http://terminology.hl7.org/CodeSystem/v3-ObservationValue":
            # AIAST is newer than R4 4.0.1's own copy of this code system.
            system["concept"].append({"code": "AIAST", "display": "Artificial Intelligence asserted"})
    folder = Path(mkdtemp(prefix="hilum-r4-"))
    for number, definition in enumerate(definitions):
        (folder / f"{number}.json").write_text(json.dumps(definition))
    config = {"fhirVersion": "4.0.1", "terminology": {"mode": "local"}, "localPackagePaths": [str(folder)]}
    return Validator(ValidatorConfig.load_dict(config))


def errors(data: bytes) -> list[str]:
    """Everything that is wrong with a bundle; empty when nothing is."""
    bundle = json.loads(data)
    Bundle.model_validate(bundle)
    found = [str(issue) for issue in fhirkit.validate(data) if issue.severity == "error"]
    found += [
        f"{i.path}: {i.message}" for i in _validator().validate_resource(bundle).issues if i.severity.name == "ERROR"
    ]
    return found + list(_unseen(bundle))


@pytest.fixture
def fhir_errors() -> Callable[[bytes], list[str]]:
    return errors


def _unseen(bundle: dict[str, Any]) -> Iterator[str]:
    """A quantity code without a system, attachment data without a type, a reference that leads nowhere."""
    known = {entry["fullUrl"] for entry in bundle["entry"]}
    for node in _nodes(bundle):
        if "code" in node and "value" in node and "unit" in node and "system" not in node:
            yield "a quantity code without a system"
        if "data" in node and "contentType" not in node:
            yield "attachment data without contentType"
        reference = node.get("reference", "")
        if isinstance(reference, str) and reference.startswith("urn:uuid:") and reference not in known:
            yield f"dangling {reference}"


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _nodes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _nodes(inner)
