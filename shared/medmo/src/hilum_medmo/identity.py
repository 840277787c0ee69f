"""Who a checkpoint is: the digest of its files and what hilum.json declares about it.

hilum.json is Hilum's own file beside the weights; every key is optional, unknown ones are ignored:

    {"name": "MedMO-Nano", "version": "0.2.0", "simulation": true, "disclaimer": "…",
     "labels": ["Nodule", …], "thresholds": {"Nodule": {"report": 0.1, "urgent": 0.5}, …},
     "no_finding": "No abnormality detected.", "prompts": {"locate": "…", "report": "…"}}

`no_finding` is one text or several. A threshold above 1 is never reached.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from hilum_medmo.config import read_json
from hilum_medmo.errors import CheckpointError
from hilum_medmo.model import ModelIdentity, Threshold
from hilum_medmo.weights import weight_files

DEFAULT_DISCLAIMER = "Made by an AI model; no person has verified it."

_BEHAVIOUR_FILES = (
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
"""Beside the weights, everything that changes an answer. hilum.json does not: thresholds come after the answer."""


def checkpoint_digest(checkpoint: Path) -> str:
    """SHA-256, 64 hexadecimal digits, over the weights and every file that changes an answer.

    Hashed are, in order of name, each present file's name, a zero byte, its length as 8 bytes big-endian, and its
    bytes; so a byte cannot move from one file to the next unseen.

    Raises:
        CheckpointError: weights are missing.
    """
    files = {path.name: path for path in weight_files(checkpoint)}
    files |= {name: checkpoint / name for name in _BEHAVIOUR_FILES if (checkpoint / name).is_file()}
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(name.encode() + b"\0" + path.stat().st_size.to_bytes(8, "big"))
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def read_identity(checkpoint: Path, digest: str) -> ModelIdentity:
    """What hilum.json says, with defaults where it says nothing: no simulation, no closed set of labels.

    Raises:
        CheckpointError: hilum.json is there but malformed. Guessing there could send a simulator's result to a patient.
    """
    path = checkpoint / "hilum.json"
    raw = read_json(path) if path.exists() else {}
    try:
        simulation = raw.get("simulation", False)
        if not isinstance(simulation, bool):
            raise ValueError(f"simulation is {simulation!r}, neither true nor false")
        return ModelIdentity(
            name=_text(raw, "name", checkpoint.resolve().name),
            version=_text(raw, "version", "unknown"),
            digest=digest,
            simulation=simulation,
            disclaimer=_text(raw, "disclaimer", DEFAULT_DISCLAIMER),
            labels=_texts("labels", raw.get("labels", ())),
            thresholds=_thresholds(raw.get("thresholds", {})),
            no_finding=_texts("no_finding", raw.get("no_finding", ())),
            prompts={str(task): _text(raw["prompts"], task, "") for task in raw.get("prompts", {})},
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error!r}") from error


def _text(raw: dict[str, Any], key: str, default: str) -> str:
    value = raw.get(key, default)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} is {value!r}, no text")
    return value


def _texts(key: str, value: object) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError(f"{key} is {value!r}, no text and no list of texts")
    return tuple(texts)


def _thresholds(value: dict[str, dict[str, float]]) -> dict[str, Threshold]:
    thresholds = {label: Threshold(float(raw["report"]), float(raw["urgent"])) for label, raw in value.items()}
    wrong = [label for label, threshold in thresholds.items() if not 0.0 <= threshold.report <= threshold.urgent]
    if wrong:
        raise ValueError(f"thresholds of {', '.join(wrong)}: 0 <= report <= urgent does not hold")
    return thresholds
