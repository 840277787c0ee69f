"""Rules: which tasks on which images in which lane, or not applicable and why."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from hilum.domain.inference import ImageReference, InferenceRequest, Lane, PriorReference, Task
from hilum.domain.study import Complete, Instance, OrderPriority, PriorStudy, Series, StudyRevision, Wait

_ORDER_LANE = {
    OrderPriority.STAT: Lane.STAT,
    OrderPriority.URGENT: Lane.URGENT,
    OrderPriority.ROUTINE: Lane.ROUTINE,
}

_LATERAL = frozenset({"LL", "RL", "LATERAL", "LAT", "LLAT", "RLAT"})
"""Lateral views: LL and RL are the defined terms of View Position (PS3.3 C.8.11.5); the rest is what senders write."""

_FOR_PROCESSING = frozenset(
    {
        # PS3.4 B.5: the X-ray storage classes whose images are FOR PROCESSING, whatever the attribute says
        "1.2.840.10008.5.1.4.1.1.1.1.1",
        "1.2.840.10008.5.1.4.1.1.1.2.1",
        "1.2.840.10008.5.1.4.1.1.1.3.1",
    }
)


@dataclass(frozen=True, slots=True)
class PriorsWanted:
    """How many earlier studies are fetched, how many days old they may be, and until how long after the study's
    last image it waits for them."""

    studies: int
    within_days: int
    wait: timedelta


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of `hilum.toml`. Empty lists match everything; comparisons ignore case.

    Attributes:
        body_parts: values of Body Part Examined (0018,0015) that match.
        description_words: whole words in the series or study description that match when the body part is absent.
        exclude_words: whole words in a description that make a series not match. `lateral` leaves out images whose view
            is lateral as well; images that state another view stay in a study described as, say, PA and lateral.
        lane: the lane, or None to follow the order's priority.
        max_images: how many images are sent to the model; the first by instance number.
        early: it starts on the first series that it takes, before the study is complete.
        priors: the earlier studies that are fetched for a study it takes, None for none.
    """

    name: str
    modalities: tuple[str, ...]
    body_parts: tuple[str, ...]
    description_words: tuple[str, ...]
    exclude_words: tuple[str, ...]
    tasks: tuple[Task, ...]
    lane: Lane | None
    max_images: int
    early: bool = False
    priors: PriorsWanted | None = None


@dataclass(frozen=True, slots=True)
class NotApplicable:
    reason: str


@dataclass(frozen=True, slots=True)
class Routed:
    """`reason` says which images the rule takes and which it leaves out."""

    request: InferenceRequest
    reason: str


def route(study: StudyRevision, rules: Sequence[Rule], *, now: datetime) -> Routed | NotApplicable:
    """The first rule that takes an image of the study decides; without one, the reason says what was there."""
    misses: list[str] = []
    for rule in rules:
        taken, left_out = _take(rule, study.series, study.description, misses)
        if taken:
            request = InferenceRequest(
                study_instance_uid=study.study_instance_uid,
                revision=study.revision,
                lane=rule.lane or _ORDER_LANE[study.order_priority],
                tasks=rule.tasks,
                images=tuple(_reference(image) for image in taken),
                rule=rule.name,
                last_received_at=study.last_received_at,
                requested_at=now,
                priors=tuple(prior for one in study.priors if (prior := _prior(rule, one)) is not None),
            )
            takes = f"rule '{rule.name}' takes {_count(taken, 'image')}"
            return Routed(request, f"{takes}; left out: {', '.join(left_out)}" if left_out else takes)
        if left_out:
            misses.append(f"nothing but {', '.join(left_out)} (rule '{rule.name}')")
    return NotApplicable(_reason(misses))


def _take(
    rule: Rule, series: Sequence[Series], description: str, misses: list[str]
) -> "tuple[list[_Image], list[str]]":
    """The images that the rule takes, and in words those of its series that it leaves out; adds to the misses."""
    matched: list[_Image] = []
    for one in series:
        miss = _why_not(rule, one, description)
        if miss:
            misses.append(miss)
        else:
            matched.extend(_images(one))
    return _choose(rule, matched)


def _prior(rule: Rule, prior: PriorStudy) -> PriorReference | None:
    """Of an earlier study what the rule would take of a new one; None when that is nothing."""
    taken, _ = _take(rule, prior.series, "", [])
    if not taken:
        return None
    return PriorReference(prior.study_instance_uid, prior.study_date, tuple(_reference(image) for image in taken))


def rule_of(study: StudyRevision, rules: Sequence[Rule]) -> Rule | None:
    """The rule that `route` would apply to what is here of the study."""
    return next((rule for rule in rules if _take(rule, study.series, study.description, [])[0]), None)


def body_parts_of(study: StudyRevision, rule: Rule) -> tuple[frozenset[str], frozenset[str]]:
    """Modalities and stated body parts, in capitals, of the series that the rule takes: what an earlier study has to
    share. A series whose part only a description names states none."""
    taken = [series for series in study.series if not _why_not(rule, series, study.description)]
    return _upper(s.modality for s in taken if s.modality), _upper(s.body_part for s in taken if s.body_part)


STARTED_EARLY = "started early"
"""How the reason of a revision begins that a rule started on."""


def early_start(
    study: StudyRevision,
    rules: Sequence[Rule],
    *,
    last_received_at: Mapping[str, datetime],
    quiet_time: timedelta,
    now: datetime,
) -> Complete | Wait | None:
    """Whether a rule starts on a series that it takes and that nothing was added to for the quiet time.

    `last_received_at`: of each series, by its UID. None when no such rule takes a series of those that are here.
    """
    earliest: datetime | None = None
    for rule in (rule for rule in rules if rule.early):
        for series in study.series:
            if _why_not(rule, series, study.description) or not (taken := _choose(rule, _images(series))[0]):
                continue
            until = last_received_at[series.series_instance_uid] + quiet_time
            if now >= until:
                takes = f"takes {_count(taken, 'image')} of a series that is quiet for {quiet_time.total_seconds():g} s"
                return Complete(f"{STARTED_EARLY}: rule '{rule.name}' {takes}")
            earliest = until if earliest is None else min(earliest, until)
    return None if earliest is None else Wait(earliest)


@dataclass(frozen=True, slots=True)
class _Image:
    series_instance_uid: str
    instance: Instance


def _choose(rule: Rule, matched: Sequence[_Image]) -> tuple[list[_Image], list[str]]:
    """What the model is shown, and in words what it isn't. Looks over all series: a view is often one of its own."""
    left_out: list[str] = []
    shown = [image for image in matched if not _for_processing(image.instance)]
    if len(shown) < len(matched):
        left_out.append(_count(matched[len(shown) :], "image") + " FOR PROCESSING")
    others = [image for image in shown if not _is_lateral(image.instance.view_position)]
    if len(others) < len(shown) and (others or _words_found(rule.exclude_words, "lateral")):
        left_out.append(_count(shown[len(others) :], "lateral view"))
        shown = others
    if len(shown) > rule.max_images:
        left_out.append(_count(shown[rule.max_images :], "image") + f" past the limit of {rule.max_images}")
    return shown[: rule.max_images], left_out


def _for_processing(instance: Instance) -> bool:
    """Raw detector data, which nobody reads and no model was trained on: to answer about it would be a guess."""
    return instance.presentation_intent == "FOR PROCESSING" or instance.sop_class_uid in _FOR_PROCESSING


def _is_lateral(text: str) -> bool:
    """True for a lateral view's term or word. A lateral decubitus is a frontal view of a patient who lies on a side."""
    words = re.findall(r"\w+", text.upper())
    return not _LATERAL.isdisjoint(words) and not any(word.startswith("DEC") for word in words)


def _count(items: Sequence[object], what: str) -> str:
    return f"{len(items)} {what}{'s' if len(items) != 1 else ''}"


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
    excluded = _excluded(rule, series, study_description)
    if excluded:
        return f"description says '{excluded}' (rule '{rule.name}')"
    if rule.body_parts or rule.description_words:
        if series.body_part:
            if series.body_part.upper() not in _upper(rule.body_parts):
                return f"body part {series.body_part} is not {'/'.join(rule.body_parts)} (rule '{rule.name}')"
        elif not _words_found(rule.description_words, descriptions):
            return f"no body part, and the description names none of {'/'.join(rule.description_words)}"
    return ""


def _excluded(rule: Rule, series: Series, study_description: str) -> str:
    """The word that takes the series out, or empty. What a study's description says of views, an image knows better."""
    known = all(instance.view_position for instance in series.instances if instance.has_pixels)
    words = [word for word in rule.exclude_words if not (known and _is_lateral(word))]
    return _words_found(rule.exclude_words, series.description) or _words_found(words, study_description)


def _upper(values: Iterable[str]) -> frozenset[str]:
    return frozenset(value.upper() for value in values)


def _words_found(words: Sequence[str], text: str) -> str:
    for word in words:
        if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE):
            return word
    return ""


def _images(series: Series) -> list[_Image]:
    """The images of a series in order of instance number."""
    readable = sorted((i for i in series.instances if i.has_pixels), key=_order)
    return [_Image(series.series_instance_uid, instance) for instance in readable]


def _reference(image: _Image) -> ImageReference:
    """Of a multi-frame image its middle frame."""
    instance = image.instance
    return ImageReference(
        series_instance_uid=image.series_instance_uid,
        sop_instance_uid=instance.sop_instance_uid,
        sop_class_uid=instance.sop_class_uid,
        uri=instance.uri,
        frame=(instance.frames + 1) // 2,
        frames=instance.frames,
        rows=instance.rows,
        columns=instance.columns,
    )


def _order(instance: Instance) -> tuple[int, str]:
    number = instance.instance_number
    return (number if number is not None else 1 << 31, instance.sop_instance_uid)
