"""Frames of stored images as PNG, kept for a while since a reader flips back and forth."""

import queue
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from hilum.adapters.dicom.decoding_child import DecodingChild
from hilum.adapters.dicom.pixels import pixel_aspect
from hilum.domain.errors import Reject, Retry
from hilum.ports.instances import InstanceStore

_CACHE_BYTES = 96 * 1024 * 1024
_DECODERS = 2
_WAIT_S = 20.0


class Pictures:
    """At most two frames are decoded at a time, so that a large study can't take the machine from the model.

    Each in a process of its own, which is replaced when a hostile frame kills it. A request waits `wait_s` for its turn
    and no longer: a decoder that hangs keeps its place for a while, and must not take the threads of the pages with it.
    """

    def __init__(
        self, store: InstanceStore, *, wait_s: float = _WAIT_S, decoders: Sequence[DecodingChild] | None = None
    ) -> None:
        self._store = store
        self._wait_s = wait_s
        self._kept: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        self._all = [DecodingChild() for _ in range(_DECODERS)] if decoders is None else list(decoders)
        self._decoders: queue.LifoQueue[DecodingChild] = queue.LifoQueue()  # the one that is warm first
        for decoder in reversed(self._all):
            self._decoders.put(decoder)

    def png(self, uri: str, frame: int, *, longest_side: int) -> bytes:
        """One frame, counted from 1, shrunk to `longest_side` pixels at most.

        Raises:
            Reject: it can't be shown, and why.
            Retry: the file isn't there, all decoders are at work for too long, or this one died of it.
        """
        key = (uri, frame, longest_side)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        path = self._store.path(uri)
        try:
            decoder = self._decoders.get(timeout=self._wait_s)
        except queue.Empty as error:
            raise Retry("other images are being decoded") from error
        try:
            content = decoder.png(path, frame, longest_side=longest_side)
        except OSError as error:
            raise Retry("the stored file can't be read") from error
        finally:
            self._decoders.put(decoder)
        self._keep(key, content)
        return content

    def start(self) -> None:
        """Starts one decoder, so that the first image doesn't wait for it."""
        self._all[0].start()

    def close(self) -> None:
        """Ends the decoders."""
        for decoder in self._all:
            decoder.close()

    def aspect(self, uri: str) -> float:
        """Height of a pixel divided by its width; 1 when the image can't tell."""
        try:
            return _aspect(self._store.path(uri))
        except (Reject, Retry, OSError):
            return 1.0

    def _keep(self, key: tuple[str, int, int], content: bytes) -> None:
        with self._lock:
            self._size += len(content) - len(self._kept.pop(key, b""))
            self._kept[key] = content
            while self._size > _CACHE_BYTES and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._size -= len(oldest)


@lru_cache(maxsize=4096)
def _aspect(path: Path) -> float:
    return pixel_aspect(path)
