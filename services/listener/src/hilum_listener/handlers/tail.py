"""Follows the journals of a folder, and knows which of them have come to their end."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from hilum.domain.errors import Busy
from hilum_listener.handlers.journal import InstanceReceived, Read, is_growing, read

_LOOKS_BETWEEN_PROBES = 256
BATCH_BYTES = 64 << 20
"""Files of so many bytes are read for one transaction, so that large images don't keep the index from showing."""


class Tail:
    """`positions` says up to where each journal is folded, in bytes; whoever folds moves it.

    A journal that no process can append to and that is folded to its end is never looked at again. What may stand
    there behind the last whole line was torn by a kill, and never acknowledged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ended: set[str] = set()
        self._idle: Counter[str] = Counter()
        self.positions: dict[str, int] = {}

    @property
    def ended(self) -> frozenset[str]:
        return frozenset(self._ended)

    def unread(self) -> Iterator[Read]:
        """New whole lines of every journal, oldest journal first, in batches.

        Raises:
            Busy: the folder or a journal can't be read.
        """
        try:
            for path in sorted(self._folder.iterdir()):
                if path.suffix == ".jsonl" and path.name not in self._ended:
                    yield from self._of(path)
        except OSError as error:
            raise Busy(f"the journal can't be read: {type(error).__name__}") from error

    def forget(self, name: str) -> None:
        """The journal is removed."""
        self._ended.discard(name)
        self._idle.pop(name, None)
        self.positions.pop(name, None)

    def _of(self, path: Path) -> Iterator[Read]:
        while True:
            found = False
            for batch in self._batches(path):
                found = True
                self._idle.pop(path.name, None)
                yield batch
            if found or not self._may_have_ended(path):
                return
            if not any(True for _ in self._batches(path)):  # looked at again: nothing can come after this look
                self._ended.add(path.name)
                return

    def _batches(self, path: Path) -> Iterator[Read]:
        while path.stat().st_size > self.positions.get(path.name, 0):
            found = read(path, self.positions.get(path.name, 0))
            if not found.entries:
                return
            yield from _cut(found)

    def _may_have_ended(self, path: Path) -> bool:
        looks = self._idle[path.name]
        self._idle[path.name] += 1
        if looks % _LOOKS_BETWEEN_PROBES:
            return False
        try:
            return not is_growing(path)
        except OSError:  # no locks here, or it has just gone
            return False


def _cut(batch: Read) -> Iterator[Read]:
    """The batch in pieces whose files are of `BATCH_BYTES` or little more together."""
    start, first, size = batch.start, 0, 0
    for index, (entry, end) in enumerate(batch.entries):
        size += entry.size if isinstance(entry, InstanceReceived) else 0
        if size >= BATCH_BYTES or index == len(batch.entries) - 1:
            yield replace(batch, start=start, entries=batch.entries[first : index + 1])
            start, first, size = end, index + 1, 0
