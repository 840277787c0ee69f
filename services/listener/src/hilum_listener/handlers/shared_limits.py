"""Limits on associations that hold over several receiving processes: a small file that all of them map.

One row for each process says what is open there, for each peer and in all; the starter clears the row of a process
that died. Behind the rows are the times (CLOCK_MONOTONIC, the same for all processes) at which each peer opened its
last associations.
"""

import fcntl
import mmap
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hilum.runtime.config import Peer
from hilum_listener.handlers.peers import PeerLimits

_COUNT, _TIME = struct.Struct("<i"), struct.Struct("<d")
_MINUTE_S = 60.0


class SharedLimits(PeerLimits):
    """`row`: this process's number, from 0 to `processes` - 1. The file is made by the starter (`create`)."""

    def __init__(self, path: Path, peers: Sequence[Peer], *, processes: int, row: int) -> None:
        super().__init__()
        self._peers = {peer: number for number, peer in enumerate(peers, 1)}
        self._columns = len(peers) + 1
        self._processes, self._row = processes, row
        self._times: dict[Peer, tuple[int, int]] = {}
        at = _COUNT.size * self._columns * processes
        for peer in peers:
            limit = peer.max_associations_per_min or 0
            self._times[peer] = (at, limit)
            at += _TIME.size * limit
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._map = mmap.mmap(self._fd, at)

    @staticmethod
    def create(path: Path, peers: Sequence[Peer], *, processes: int) -> None:
        """Nothing is open yet."""
        times = sum(peer.max_associations_per_min or 0 for peer in peers)
        zeros = bytes(_COUNT.size * (len(peers) + 1) * processes)
        path.write_bytes(zeros + _TIME.pack(-_MINUTE_S) * times)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def elsewhere(self, peer: Peer | None = None) -> int:
        column = 0 if peer is None else self._peers[peer]
        others = (row for row in range(self._processes) if row != self._row)
        return sum(_COUNT.unpack_from(self._map, self._at(row, column))[0] for row in others)

    def publish(self, total: int, by_peer: Mapping[Peer, int]) -> None:
        _COUNT.pack_into(self._map, self._at(self._row, 0), total)
        for peer, column in self._peers.items():
            _COUNT.pack_into(self._map, self._at(self._row, column), by_peer.get(peer, 0))

    def clear(self, row: int) -> None:
        """The process of this row is gone."""
        with self.exclusive():
            start = self._at(row, 0)
            self._map[start : start + _COUNT.size * self._columns] = bytes(_COUNT.size * self._columns)

    def _opened(self, peer: Peer, now_s: float) -> bool:
        """Puts the time in the place of the oldest, unless that is less than a minute old."""
        start, limit = self._times[peer]
        times = [_TIME.unpack_from(self._map, start + _TIME.size * number)[0] for number in range(limit)]
        oldest = min(range(limit), key=times.__getitem__)
        if times[oldest] > now_s - _MINUTE_S:
            return False
        _TIME.pack_into(self._map, start + _TIME.size * oldest, now_s)
        return True

    def _at(self, row: int, column: int) -> int:
        return _COUNT.size * (self._columns * row + column)
