"""Every message by the name of its schema; `python -m hilum.contracts.catalogue` writes the schemas anew."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from hilum.contracts.messages import FindingsProduced, InferenceRequested, Message, StudyEnded, StudyReady
from hilum.contracts.unhandled import DeadLetter

MESSAGES: Mapping[str, type[Message]] = MappingProxyType(
    {
        "study.ready": StudyReady,
        "inference.requested": InferenceRequested,
        "findings.produced": FindingsProduced,
        "study.ended": StudyEnded,
        "dead.letter": DeadLetter,
    }
)
SCHEMAS = Path(__file__).parent / "schemas"
EXAMPLES = Path(__file__).parent / "examples"


def write() -> None:
    """Puts down the JSON Schema of each class."""
    for name, message in MESSAGES.items():
        (SCHEMAS / f"{name}.json").write_text(json.dumps(message.model_json_schema(), indent=2) + "\n")


if __name__ == "__main__":
    write()
