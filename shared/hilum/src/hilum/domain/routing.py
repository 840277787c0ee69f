"""Rules: which tasks on which images in which lane, or not applicable and why."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from hilum.domain.inference import ImageReference, InferenceRequest, Lane, Task
from hilum.domain.study import Instance, OrderPriority, Series, StudyRevision

_ORDER_LANE = {
    OrderPriority.STAT: Lane.STAT,
    OrderPriority.URGENT: Lane.URGENT,
    OrderPriority.ROUTINE: Lane.ROUTINE,
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of `hilum.toml`. Empty lists match everything; comparisons ignore case.

    Attributes:
        body_parts: values of Body Part Examined (0018,0015) that match.
        description_words: whole words in the series or study description that match when the body part is absent.
        exclude_words: whole words in a description that make a series not match.
        lane: the lane, or None to follow the order's priority.
        max_images: how many images are sent to the model; the first by instance number.
    """

    name: str
    modalities: tuple[str, ...]
    body_parts: tuple[str, ...]
    description_words: tuple[str, ...]
    exclude_words: tuple[str, ...]
    tasks: tuple[Task, ...]
    lane: Lane | None
    max_images: int


@dataclass(frozen=True, slots=True)
class NotApplicable:
    reason: str


def route(study: StudyRevision, rules: Sequence[Rule], *, now: datetime) -> InferenceRequest | NotApplicable:
    """The first rule that matches an image of the study decides; without one, the reason says what was there."""
    misses: list[str] = []
    for rule in rules:
        images: list[ImageReference] = []
        for series in study.series:
            miss = _why_not(rule, series, study.description)
            if miss:
                misses.append(miss)
                continue
            images.extend(_references(series))
        if images:
            return InferenceRequest(
                study_instance_uid=study.study_instance_uid,
                revision=study.revision,
                lane=rule.lane or _ORDER_LANE[study.order_priority],
                tasks=rule.tasks,
                images=tuple(images[: rule.max_images]),
                rule=rule.name,
                last_received_at=study.last_received_at,
                requested_at=now,
            )
    return NotApplicable(_reason(misses))


def _reason(misses: Sequence[str]) -> str:
    unique = list(dict.fromkeys(misses))
    return "; ".join(unique[:4]) if unique else "the study has no image that a rule could match"


def _why_not(rule: Rule, series: Series, study_description: str) -> str:
    """Empty when the rule takes the series, else the reason."""
    if rule.modalities and series.modality.upper() not in _upper(rule.modalities):
        wanted = "/".join(rule.modalities)
        return f"modality {series.modality or 'unknown'} is not {wanted} (rule '{rule.name}')"
    if not any(instance.has_pixels for instance in series.instances):
        return f"no pixels in series of modality {series.modality or 'unknown'}"
    descriptions = f"{series.description} {study_description}"
    excluded = _words_found(rule.exclude_words, descriptions)
    if excluded:
        return f"description says '{excluded}' (rule '{rule.name}')"
    if rule.body_parts or rule.description_words:
        if series.body_part:
            if series.body_part.upper() not in _upper(rule.body_parts):
                return f"body part {series.body_part} is not {'/'.join(rule.body_parts)} (rule '{rule.name}')"
        elif not _words_found(rule.description_words, descriptions):
            return f"no body part, and the description names none of {'/'.join(rule.description_words)}"
    return ""


def _upper(values: Iterable[str]) -> frozenset[str]:
    return frozenset(value.upper() for value in values)


def _words_found(words: Sequence[str], text: str) -> str:
    for word in words:
        if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE):
            return word
    return ""


def _references(series: Series) -> list[ImageReference]:
    """The images of a series in order of instance number; of a multi-frame image its middle frame."""
    readable = [i for i in series.instances if i.has_pixels and i.presentation_intent != "FOR PROCESSING"]
    if not readable:  # a modality that only sends FOR PROCESSING: better that than nothing
        readable = [i for i in series.instances if i.has_pixels]
    readable.sort(key=_order)
    return [
        ImageReference(
            series_instance_uid=series.series_instance_uid,
            sop_instance_uid=i.sop_instance_uid,
            sop_class_uid=i.sop_class_uid,
            uri=i.uri,
            frame=(i.frames + 1) // 2,
            frames=i.frames,
            rows=i.rows,
            columns=i.columns,
        )
        for i in readable
    ]


def _order(instance: Instance) -> tuple[int, str]:
    number = instance.instance_number
    return (number if number is not None else 1 << 31, instance.sop_instance_uid)
