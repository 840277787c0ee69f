"""Errors of this package, named by what the caller can do about them."""

from __future__ import annotations


class MedMOError(Exception):
    """Everything that hilum_medmo raises on purpose, except `grounding.GrammarError`."""


class CheckpointError(MedMOError):
    """The checkpoint folder is incomplete, contradicts itself or is no Qwen3-VL: no request can succeed with it."""


class RequestError(MedMOError, ValueError):
    """This request can never succeed: image of a wrong shape, prompt too long, text the tokenizer cannot hold."""
