"""Which line of a TOML text a key stands on; tomllib doesn't keep that, and a wrong key must be named with its line."""

import tomllib
from collections.abc import Mapping

Location = tuple[str | int, ...]


def key_lines(text: str) -> Mapping[Location, int]:
    """Maps the path of every table and key (array elements by index) to its line, counted from 1.

    The text must parse; statements are found as the shortest runs of lines that parse on their own.
    """
    lines: dict[Location, int] = {}
    counts: dict[Location, int] = {}
    prefix: Location = ()
    pending: list[str] = []
    start = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if not pending:
            start = number
        pending.append(line)
        try:
            statement = tomllib.loads("\n".join(pending))
        except tomllib.TOMLDecodeError:
            continue
        head = pending[0].lstrip()
        pending = []
        if head.startswith("["):
            prefix = _table(statement, head.startswith("[["), counts)
            lines[prefix] = start
        else:
            _note(statement, prefix, start, lines)
    return lines


def _table(statement: Mapping[str, object], is_array: bool, counts: dict[Location, int]) -> Location:
    path: Location = ()
    value: object = statement
    while isinstance(value, Mapping) and value:
        name, value = next(iter(value.items()))
        path = (*path, name)
        last = not (isinstance(value, Mapping) and value)
        if last and is_array:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _note(value: object, path: Location, line: int, lines: dict[Location, int]) -> None:
    if path:
        lines.setdefault(path, line)
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _note(inner, (*path, name), line, lines)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _note(inner, (*path, index), line, lines)


def line_of(lines: Mapping[Location, int], location: Location) -> int | None:
    """The line of the location, or of the nearest table or key around it."""
    for end in range(len(location), 0, -1):
        if location[:end] in lines:
            return lines[location[:end]]
    return None
