"""docs/hilum.example.toml documents every key."""

import types
import typing
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from pydantic import BaseModel

from hilum.runtime.config import Site, load
from hilum.runtime.toml_lines import key_lines

EXAMPLE = Path(__file__).parents[3] / "docs" / "hilum.example.toml"


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for argument in typing.get_args(annotation):
        yield from _models(argument)


def _keys(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key, without list positions."""
    for name, field in model.model_fields.items():
        yield (*path, name)
        for inner in _models(field.annotation):
            yield from _keys(inner, (*path, name))


def test_every_key_is_in_the_example() -> None:
    written = {
        tuple(part for part in location if isinstance(part, str)) for location in key_lines(EXAMPLE.read_text("utf-8"))
    }
    assert set(_keys(Site)) - written == set()
    assert ("destinations", "application") in set(_keys(Site))  # the walk reaches the members of a union


def test_every_key_has_a_comment_before_it_or_before_its_first_use() -> None:
    lines = EXAMPLE.read_text("utf-8").splitlines()
    explained: set[str] = set()
    bare = []
    for before, line in pairwise(lines):
        key = line.split("=")[0].strip()
        if "=" not in line or line.startswith("#"):
            continue
        if before.startswith("#") or "=" in before:
            explained.add(key)
        elif key not in explained:
            bare.append(key)
    assert [key for key in bare if key != "ae_title"] == []


def test_values_that_are_not_called_examples_are_the_defaults() -> None:
    example, default = load(EXAMPLE), Site()
    assert example.listener.model_copy(update={"tls": None, "stow": None}) == default.listener
    for part in ("worklist", "worker", "results", "rules", "ae_title"):
        assert getattr(example, part) == getattr(default, part)
