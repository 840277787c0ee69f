"""A configuration as TOML text; the standard library only reads TOML."""

import json
import re
from collections.abc import Mapping

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml_text(values: Mapping[str, object]) -> str:
    """TOML of nested mappings, sequences, texts, numbers and truth values. TOML can't say None: left out."""
    return "".join(f"{_key(name)} = {_value(value)}\n" for name, value in values.items() if value is not None)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace(
            "\x7f", "\\u007f"
        )  # JSON's escapes are TOML's, but for DEL
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(n)} = {_value(v)}" for n, v in value.items() if v is not None)
        return "{ " + inner + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    raise TypeError(f"{type(value).__name__} has no TOML form")
