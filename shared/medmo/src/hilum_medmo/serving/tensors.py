"""The contract's values as named tensors, checked on the way in: whoever sent them is not trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from enum import StrEnum
from typing import Any, TypeAlias, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from hilum_medmo.model import Finish, Generation, ModelIdentity, Request, Threshold, Timings, Token
from hilum_medmo.serving.contract import DESCRIBE, Asked, Box, ContractError, Priority, Said, Status, Task

Tensors: TypeAlias = Mapping[str, NDArray[Any]]
"""Tensors by name. Texts are UTF-8 bytes in an object array, as Triton's BYTES are."""

_Member = TypeVar("_Member", bound=StrEnum)

INPUTS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "TASK": ("BYTES", (1,)),
    "PROMPT": ("BYTES", (1,)),
    "SYSTEM": ("BYTES", (1,)),
    "IMAGES": ("UINT8", (-1,)),
    "IMAGE_SIZES": ("INT32", (-1, 3)),
    "MAX_NEW_TOKENS": ("INT32", (1,)),
    "PRIORITY": ("BYTES", (1,)),
    "DEADLINE_S": ("FP64", (1,)),
    "DIGEST": ("BYTES", (1,)),
}
"""Name: Triton's type and shape, -1 for any number. TASK is always there, the others as README.md says."""

OUTPUTS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "STATUS": ("BYTES", (1,)),
    "REASON": ("BYTES", (1,)),
    "MODEL": ("BYTES", (3,)),
    "DESCRIPTION": ("BYTES", (1,)),
    "TEXT": ("BYTES", (1,)),
    "FINISH": ("BYTES", (1,)),
    "TOKEN_IDS": ("INT32", (-1,)),
    "TOKEN_TEXTS": ("BYTES", (-1,)),
    "TOKEN_SPANS": ("INT32", (-1, 2)),
    "TOKEN_PROBABILITIES": ("FP64", (-1,)),
    "LABELS": ("BYTES", (-1,)),
    "BOXES": ("INT32", (-1, 4)),
    "BOX_CONFIDENCES": ("FP64", (-1,)),
    "TIMINGS_S": ("FP64", (5,)),
}

DTYPES: Mapping[str, Any] = {"BYTES": np.object_, "UINT8": np.uint8, "INT32": np.int32, "FP64": np.float64}


def encode_request(asked: Asked) -> dict[str, NDArray[Any]]:
    """The tensors of a request."""
    tensors: dict[str, NDArray[Any]] = {"TASK": _texts(asked.task.value)}
    if asked.task is Task.DESCRIBE:
        return tensors
    request = asked.request
    tensors |= {
        "PROMPT": _texts(request.prompt),
        "MAX_NEW_TOKENS": np.array([request.max_new_tokens], np.int32),
        "PRIORITY": _texts(asked.priority.value),
        "DEADLINE_S": np.array([asked.deadline_s], np.float64),
    }
    if request.system is not None:
        tensors["SYSTEM"] = _texts(request.system)
    if asked.digest:
        tensors["DIGEST"] = _texts(asked.digest)
    if request.images:
        sent = [_without_repetition(image) for image in request.images]
        tensors["IMAGES"] = (
            np.concatenate([image.reshape(-1) for image in sent]) if len(sent) > 1 else sent[0].reshape(-1)
        )
        tensors["IMAGE_SIZES"] = np.array([image.shape for image in sent], np.int32)
    return tensors


def decode_request(tensors: Tensors) -> Asked:
    """The request of these tensors; images are copies.

    Raises:
        ContractError: they are not in the contract.
    """
    check(tensors, INPUTS)
    task = _member(Task, tensors, "TASK")
    if task is Task.DESCRIBE:
        return DESCRIBE
    deadline_s = float(_one(tensors, "DEADLINE_S"))
    if not 0 < deadline_s < 1e6:
        raise ContractError("DEADLINE_S is not between 0 and 1000000")
    request = Request(
        _images(tensors),
        _text(tensors, "PROMPT"),
        int(_one(tensors, "MAX_NEW_TOKENS")),
        _text(tensors, "SYSTEM") if "SYSTEM" in tensors else None,
    )
    digest = _text(tensors, "DIGEST") if "DIGEST" in tensors else ""
    return Asked(task, request, _member(Priority, tensors, "PRIORITY"), deadline_s, digest)


def encode_said(said: Said) -> dict[str, NDArray[Any]]:
    """The tensors of a message."""
    tensors: dict[str, NDArray[Any]] = {"STATUS": _texts(said.status.value)}
    if said.reason:
        tensors["REASON"] = _texts(said.reason)
    if said.model[2]:
        tensors["MODEL"] = _texts(*said.model)
    if said.description is not None:
        tensors["DESCRIPTION"] = _texts(json.dumps(asdict(said.description)))
    if said.generation is not None:
        generation, times = said.generation, said.generation.timings
        spans = [(token.start, token.end) for token in generation.tokens]
        tensors |= {
            "TEXT": _texts(generation.text),
            "FINISH": _texts(generation.finish),
            "TOKEN_IDS": np.array([token.id for token in generation.tokens], np.int32),
            "TOKEN_TEXTS": _texts(*(token.text for token in generation.tokens)),
            "TOKEN_SPANS": np.array(spans, np.int32).reshape(-1, 2),
            "TOKEN_PROBABILITIES": np.array([token.probability for token in generation.tokens], np.float64),
            "LABELS": _texts(*(each.label for each in said.boxes)),
            "BOXES": np.array([each.box for each in said.boxes], np.int32).reshape(-1, 4),
            "BOX_CONFIDENCES": np.array([each.confidence for each in said.boxes], np.float64),
            "TIMINGS_S": np.array(
                [said.queue_s, times.preprocess_s, times.vision_s, times.prefill_s, times.decode_s], np.float64
            ),
        }
    return tensors


def decode_said(tensors: Tensors) -> Said:
    """The message of these tensors.

    Raises:
        ContractError: they are not in the contract, or contradict each other.
    """
    check(tensors, OUTPUTS)
    status = _member(Status, tensors, "STATUS")
    reason = _text(tensors, "REASON")[:500] if "REASON" in tensors else ""
    model = tuple(_strings(tensors, "MODEL")) if "MODEL" in tensors else ("", "", "")
    description = _description(_text(tensors, "DESCRIPTION")) if status is Status.DESCRIBED else None
    if status is not Status.ANSWERED:
        return Said(status, reason, (model[0], model[1], model[2]), description=description)
    labels, boxes = _strings(tensors, "LABELS"), _rows(tensors, "BOXES")
    confidences = _probabilities(tensors, "BOX_CONFIDENCES")
    if not len(labels) == len(boxes) == len(confidences):
        raise ContractError("LABELS, BOXES and BOX_CONFIDENCES differ in length")
    found = tuple(
        Box(label, (row[0], row[1], row[2], row[3]), confidence)
        for label, row, confidence in zip(labels, boxes, confidences, strict=True)
    )
    generation, queue_s = _generation(tensors)
    return Said(status, reason, (model[0], model[1], model[2]), generation, found, queue_s)


def check(tensors: Tensors, declared: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Names, types and shapes.

    Raises:
        ContractError: one of them is not as declared.
    """
    for name, array in tensors.items():
        if name not in declared:
            continue  # of a newer contract
        kind, shape = declared[name]
        fits = len(array.shape) == len(shape) and all(
            want in (-1, size) for want, size in zip(shape, array.shape, strict=True)
        )
        if array.dtype != DTYPES[kind] or not fits:
            raise ContractError(f"{name} is not {kind} {list(shape)}")


def _generation(tensors: Tensors) -> tuple[Generation, float]:
    text, finish = _text(tensors, "TEXT"), _text(tensors, "FINISH")
    known: dict[str, Finish] = {each: each for each in get_args(Finish)}
    if finish not in known:
        raise ContractError("FINISH is unknown")
    ids = [int(number) for number in _array(tensors, "TOKEN_IDS")]
    texts, spans = _strings(tensors, "TOKEN_TEXTS"), _rows(tensors, "TOKEN_SPANS")
    probabilities = _probabilities(tensors, "TOKEN_PROBABILITIES")
    if not len(ids) == len(texts) == len(spans) == len(probabilities):
        raise ContractError("the TOKEN_ tensors differ in length")
    if any(not 0 <= start <= end <= len(text) for start, end in spans) or "".join(texts) != text:
        raise ContractError("the tokens are not those of TEXT")
    tokens = tuple(
        Token(number, part, probability, span[0], span[1])
        for number, part, probability, span in zip(ids, texts, probabilities, spans, strict=True)
    )
    times = [float(value) for value in _array(tensors, "TIMINGS_S")]
    if not all(0 <= value < 1e6 for value in times):
        raise ContractError("TIMINGS_S are no durations")
    queue_s, preprocess_s, vision_s, prefill_s, decode_s = times
    timings = Timings(preprocess_s, prefill_s, decode_s, vision_s)
    return Generation(text, tokens, known[finish], timings), queue_s


def _description(text: str) -> ModelIdentity:
    try:
        raw = json.loads(text)
        return ModelIdentity(
            name=str(raw["name"]),
            version=str(raw["version"]),
            digest=str(raw["digest"]),
            simulation=raw["simulation"] is not False,  # anything but a clear no is a simulation
            disclaimer=str(raw["disclaimer"]),
            labels=tuple(str(label) for label in raw["labels"]),
            thresholds={
                str(label): Threshold(float(each["report"]), float(each["urgent"]))
                for label, each in raw["thresholds"].items()
            },
            no_finding=tuple(str(text) for text in raw["no_finding"]),
            prompts={str(task): str(prompt) for task, prompt in raw["prompts"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ContractError("DESCRIPTION can't be read") from error


def _without_repetition(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(rows, columns, 1) of a grey image, whose three channels are equal, else the image; contiguous."""
    grey = (image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all()
    return np.ascontiguousarray(image[..., :1] if grey else image)


def _images(tensors: Tensors) -> tuple[NDArray[np.uint8], ...]:
    if "IMAGE_SIZES" not in tensors:
        return ()
    sizes = [(rows, columns, channels) for rows, columns, channels in _rows(tensors, "IMAGE_SIZES")]
    flat = _array(tensors, "IMAGES")
    if any(rows < 1 or columns < 1 or channels not in (1, 3) for rows, columns, channels in sizes):
        raise ContractError("IMAGE_SIZES holds an empty image, or one that is neither grey nor RGB")
    if sum(rows * columns * channels for rows, columns, channels in sizes) != flat.size:
        raise ContractError("IMAGES is not as long as IMAGE_SIZES says")
    images, at = [], 0
    for rows, columns, channels in sizes:
        size = rows * columns * channels
        pixels = flat[at : at + size].reshape(rows, columns, channels).copy()
        images.append(np.broadcast_to(pixels, (rows, columns, 3)))
        at += size
    return tuple(images)


def _array(tensors: Tensors, name: str) -> NDArray[Any]:
    try:
        return tensors[name]
    except KeyError:
        raise ContractError(f"{name} is missing") from None


def _one(tensors: Tensors, name: str) -> Any:
    return _array(tensors, name)[0]


def _rows(tensors: Tensors, name: str) -> list[list[int]]:
    rows: list[list[int]] = _array(tensors, name).tolist()
    return rows


def _probabilities(tensors: Tensors, name: str) -> list[float]:
    values: list[float] = _array(tensors, name).tolist()
    if not all(0 <= value <= 1 for value in values):
        raise ContractError(f"{name} are no probabilities")
    return values


def _strings(tensors: Tensors, name: str) -> list[str]:
    try:
        return [bytes(item).decode() for item in _array(tensors, name)]
    except (UnicodeDecodeError, TypeError) as error:
        raise ContractError(f"{name} is no UTF-8") from error


def _text(tensors: Tensors, name: str) -> str:
    return _strings(tensors, name)[0]


def _member(kind: type[_Member], tensors: Tensors, name: str) -> _Member:
    text = _text(tensors, name)
    try:
        return kind(text)
    except ValueError:
        raise ContractError(f"{name} is unknown") from None


def _texts(*texts: str) -> NDArray[np.object_]:
    array = np.empty(len(texts), np.object_)
    array[:] = [text.encode(errors="replace") for text in texts]
    return array
