"""What a MedMO is to its callers: the values of a request and its answer, and the protocol every engine obeys.

Engines differ (ONNX Runtime in process, Triton later, a fake in tests); callers see only this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Finish: TypeAlias = Literal["stop", "length", "cancelled"]
"""Why generation ended: the model said so, `max_new_tokens` was reached, or `should_stop` returned True."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """Least confidences, 0 to 1, at which a label's box is reported and at which it lifts a study. Above 1 is never."""

    report: float
    urgent: float


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model answered: everything a result must say about its origin.

    Attributes:
        name: human-readable name, such as "MedMO-Nano".
        version: the checkpoint's own version.
        digest: SHA-256, 64 hexadecimal digits, over weights, config, tokenizer, chat template and image
            processor (see `identity.checkpoint_digest`); two models with one digest give the same answers.
        simulation: True if the model was trained on generated images and must never reach a patient's record.
        disclaimer: the sentence that every result carries.
        labels: the closed set of labels the model was trained to locate; empty if it is open.
        thresholds: by label, the confidence (`grounding.BoxScore.confidence`) a finding needs; they belong to this
            model version.
        prompts: requests the model was trained on, by task ("locate", "report"); empty if nothing declares them.
        no_finding: answers, beside the empty one, that mean "nothing found" (see `grounding.parse`).
    """

    name: str
    version: str
    digest: str
    simulation: bool
    disclaimer: str
    labels: tuple[str, ...] = ()
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    no_finding: tuple[str, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One question about zero or more images.

    Attributes:
        images: each uint8 (rows, cols, 3), RGB, origin top left, already windowed to 8 bit; shown before the prompt,
            in this order.
        prompt: plain text. Never interpreted: `<|im_end|>` in it reaches the model as letters, not as a control token.
        max_new_tokens: at most this many tokens are generated, the stop token included.
        system: text of the system turn; None leaves what the checkpoint's chat template does without one.
    """

    images: tuple[NDArray[np.uint8], ...]
    prompt: str
    max_new_tokens: int = 256
    system: str | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    Attributes:
        id: index in the vocabulary.
        text: what this token added to the answer; empty for control tokens and for the first bytes of a character
            that only a later token completes.
        probability: softmax probability (0 to 1) that the model gave this token.
        start, end: the characters `answer[start:end]` this token took part in. Tokens that share one character (bytes
            of a UTF-8 sequence) share its span; the stop token has an empty span at the end.
    """

    id: int
    text: str
    probability: float
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went, in seconds of wall clock.

    Attributes:
        preprocess_s: image resizing and patches, chat template, tokenizer.
        prefill_s: vision encoder and prompt, up to and including the first token.
        decode_s: every token after the first.
        vision_s: the part of `prefill_s` that the vision encoder took.
    """

    preprocess_s: float
    prefill_s: float
    decode_s: float
    vision_s: float = 0.0

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.preprocess_s + self.prefill_s + self.decode_s


@dataclass(frozen=True, slots=True)
class Generation:
    """The model's answer. `text` never contains the stop token; `tokens` does, as its last element."""

    text: str
    tokens: tuple[Token, ...]
    finish: Finish
    timings: Timings


class MedMO(Protocol):
    """A loaded model. `generate` may be called from several threads at once."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is."""
        ...

    def generate(self, request: Request, *, should_stop: Callable[[], bool] | None = None) -> Generation:
        """Answer greedily.

        `should_stop` is asked before the vision encoder, before the prompt and before every token; once it returns
        True the answer so far comes back with `finish="cancelled"`.

        Raises:
            RequestError: the request can never succeed.
        """
        ...
