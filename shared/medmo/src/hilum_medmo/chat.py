"""From a request to token ids: chat template, image placeholders, and text that can never become a control token.

Text from users and DICOM headers is not trusted. The template is rendered with a stand-in for each text; the rendered
string is then cut at the tokenizer's special tokens, which therefore can only stem from the template; and the pieces
between them, with the texts put in, are encoded by a copy of the tokenizer that has no special tokens at all. For
texts that contain none, the ids are those of transformers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import numpy as np
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from numpy.typing import NDArray
from tokenizers import Tokenizer

from hilum_medmo.config import Qwen3VLConfig, read_json
from hilum_medmo.errors import CheckpointError, RequestError
from hilum_medmo.image_processor import Grid
from hilum_medmo.model import Request

# Qwen3-VL's own format, for checkpoints that carry no template.
_QWEN_TEMPLATE = """
{%- for message in messages -%}
<|im_start|>{{ message.role }}{{ '\\n' }}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>{%- else -%}{{ part.text }}{%- endif -%}
{%- endfor -%}<|im_end|>{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant{{ '\\n' }}{%- endif -%}
"""
_GRAMMAR_TOKENS = frozenset({"<box>", "</box>"})
_STAND_IN = re.compile("\ue000([0-9]+)\ue001")
_PRIVATE = re.compile("[\ue000\ue001]")


class Chat:
    """Tokenizer and chat template of one checkpoint. Immutable after construction, safe to share among threads."""

    def __init__(self, checkpoint: Path, config: Qwen3VLConfig) -> None:
        """Read tokenizer.json, tokenizer_config.json, generation_config.json and the chat template.

        Raises:
            CheckpointError: one of them is missing or malformed, or no stop token is declared.
        """
        raw = read_json(checkpoint / "tokenizer.json")
        added: list[dict[str, Any]] = raw.get("added_tokens", [])
        control = [token for token in added if _is_control(token)]
        try:
            self._tokenizer = Tokenizer.from_str(json.dumps(raw))
            trusted = {token["id"] for token in control}
            plain = raw | {"added_tokens": [token for token in added if token["id"] not in trusted]}
            self._plain = Tokenizer.from_str(json.dumps(plain | {"post_processor": None}))
        except Exception as error:  # tokenizers raises nothing narrower
            raise CheckpointError(f"{checkpoint}/tokenizer.json: {error}") from error
        self._control = {str(token["content"]): int(token["id"]) for token in control}
        self._config = config
        names = sorted(self._control, key=len, reverse=True)
        self._cut = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        settings_path = checkpoint / "tokenizer_config.json"
        settings = read_json(settings_path) if settings_path.exists() else {}
        self._template = _template(checkpoint, settings)
        self.stop_tokens = self._stop_tokens(checkpoint, settings)
        if config.image_token not in self._control.values():
            raise CheckpointError(f"{checkpoint}: image_token_id {config.image_token} is no special token")
        hidden = {int(token["id"]) for token in control if token["content"] not in _GRAMMAR_TOKENS}
        self.hidden_tokens = frozenset(hidden) | self.stop_tokens
        """Tokens that never appear in an answer's text."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer, for decoding."""
        return self._tokenizer

    def encode(self, request: Request, grids: Sequence[Grid]) -> NDArray[np.int64]:
        """Token ids (S,) of a request whose images have these grids.

        Raises:
            RequestError: the tokenizer turns the text itself into a control token, or the template refuses it.
        """
        texts = [request.prompt] if request.system is None else [request.prompt, request.system]
        rendered = self._render(request, texts)
        counts = iter([grid.patches // self._config.vision.merge**2 for grid in grids])
        ids: list[int] = []
        for token, piece in self._pieces(rendered):
            if token is None:
                ids += self._encode_plain(_STAND_IN.sub(lambda match: texts[int(match.group(1))], piece))
            elif token == self._config.image_token:
                ids += [token] * next(counts, 0)
            else:
                ids.append(token)
        return np.array(ids, np.int64)

    def _render(self, request: Request, texts: list[str]) -> str:
        if any(_PRIVATE.search(text) for text in texts):
            raise RequestError("the text contains the private characters U+E000 or U+E001")
        images = [{"type": "image"} for _ in request.images]
        messages = [{"role": "user", "content": [*images, {"type": "text", "text": "\ue0000\ue001"}]}]
        if request.system is not None:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": "\ue0001\ue001"}]})
        try:
            return self._template.render(messages=messages, add_generation_prompt=True)
        except jinja2.TemplateError as error:
            raise RequestError(f"the chat template refuses this request: {error}") from error

    def _pieces(self, rendered: str) -> Iterator[tuple[int | None, str]]:
        """The rendered prompt as control tokens (id, content) and stretches of text (None, text)."""
        at = 0
        for match in self._cut.finditer(rendered):
            if match.start() > at:
                yield None, rendered[at : match.start()]
            yield self._control[match.group()], match.group()
            at = match.end()
        if at < len(rendered):
            yield None, rendered[at:]

    def _encode_plain(self, text: str) -> list[int]:
        ids = list(self._plain.encode(text, add_special_tokens=False).ids)
        # A vocabulary that lists its control tokens as ordinary words would let them in by the back door.
        if not self.hidden_tokens.isdisjoint(ids):
            raise RequestError("the text would become a control token of this model")
        return ids

    def _stop_tokens(self, checkpoint: Path, settings: dict[str, Any]) -> frozenset[int]:
        path = checkpoint / "generation_config.json"
        declared = read_json(path).get("eos_token_id") if path.exists() else None
        if declared is None:
            name = settings.get("eos_token")
            content = name.get("content") if isinstance(name, dict) else name
            names = [content] if content else ["<|im_end|>", "<|endoftext|>"]
            declared = [self._control[name] for name in names if name in self._control]
        stops = frozenset(int(token) for token in (declared if isinstance(declared, list) else [declared]))
        if not stops:
            raise CheckpointError(f"{checkpoint} declares no stop token")
        return stops


def _is_control(token: dict[str, Any]) -> bool:
    """Added tokens that text must not become: the special ones, and all that look like markup (<think>, <box>)."""
    content = str(token["content"])
    return bool(token.get("special")) or (len(content) > 2 and content[0] == "<" and content[-1] == ">")


def _template(checkpoint: Path, settings: dict[str, Any]) -> jinja2.Template:
    path, old = checkpoint / "chat_template.jinja", checkpoint / "chat_template.json"
    source: object = settings.get("chat_template") or _QWEN_TEMPLATE
    if path.exists():
        source = path.read_text(encoding="utf-8")
    elif old.exists():
        source = read_json(old).get("chat_template")
    if not isinstance(source, str):
        raise CheckpointError(f"{checkpoint}: the chat template is no text")
    # The settings of transformers' apply_chat_template; sandboxed because a template is code from the checkpoint.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = _raise_exception
    environment.filters["tojson"] = lambda value, **kwargs: json.dumps(value, ensure_ascii=False, **kwargs)
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise CheckpointError(f"{checkpoint}: chat template: {error}") from error


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
