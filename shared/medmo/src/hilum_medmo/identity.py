"""Who a checkpoint is: the digest of its files and what hilum.json declares about it.

hilum.json is Hilum's own file beside the weights; every key is optional, unknown ones are ignored:

    {"name": "MedMO-Nano", "version": "0.2.0", "simulation": true, "disclaimer": "…",
     "labels": ["Nodule", …], "thresholds": {"Nodule": 0.4, …}, "no_finding": "No finding"}

`labels` may also hold objects with a key "label" (codes beside it are the caller's business), `thresholds` may be one
number for all labels, `no_finding` one text or several.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from hilum_medmo.config import read_json
from hilum_medmo.errors import CheckpointError
from hilum_medmo.model import ModelIdentity
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
    """`sha256:…` over the weights and every file that changes an answer.

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
    return f"sha256:{digest.hexdigest()}"


def read_identity(checkpoint: Path, digest: str) -> ModelIdentity:
    """What hilum.json says, with defaults where it says nothing: no simulation, no closed set of labels.

    Raises:
        CheckpointError: hilum.json is there but malformed. Guessing there could send a simulator's result to a patient.
    """
    path = checkpoint / "hilum.json"
    raw = read_json(path) if path.exists() else {}
    try:
        labels = tuple(_label(entry) for entry in raw.get("labels", ()))
        simulation = raw.get("simulation", False)
        if not isinstance(simulation, bool):
            raise ValueError(f"simulation is {simulation!r}, neither true nor false")
        return ModelIdentity(
            name=_text(raw, "name", checkpoint.resolve().name),
            version=_text(raw, "version", "unknown"),
            digest=digest,
            simulation=simulation,
            disclaimer=_text(raw, "disclaimer", DEFAULT_DISCLAIMER),
            labels=labels,
            thresholds=_thresholds(raw.get("thresholds", {}), labels),
            no_finding=_texts(raw.get("no_finding", ())),
        )
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: {error!r}") from error


def _text(raw: dict[str, Any], key: str, default: str) -> str:
    value = raw.get(key, default)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} is {value!r}, no text")
    return value


def _texts(value: object) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"no_finding is {value!r}, no text and no list of texts")
    return tuple(text for text in texts if text.strip())


def _label(entry: object) -> str:
    label = entry["label"] if isinstance(entry, dict) else entry
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"label {label!r} is no text")
    return label


def _thresholds(value: object, labels: tuple[str, ...]) -> dict[str, float]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = dict.fromkeys(labels, value)
    if not isinstance(value, dict):
        raise ValueError(f"thresholds is {value!r}, neither a number nor an object")
    thresholds = {str(label): float(threshold) for label, threshold in value.items()}
    wrong = {label: threshold for label, threshold in thresholds.items() if not 0.0 <= threshold <= 1.0}
    if wrong:
        raise ValueError(f"thresholds outside 0 to 1: {wrong}")
    return thresholds
