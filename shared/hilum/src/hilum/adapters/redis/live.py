"""Live updates by Redis pub/sub: the cluster side."""

import threading
import time
from collections.abc import Callable

import redis
from pydantic import SecretStr
from redis.exceptions import RedisError

from hilum.adapters.redis.announce import CHANNEL
from hilum.domain.errors import Busy

_AWAY_S = 1.0
_LISTEN_S = 0.25
_PING_EACH_S, _DEAD_AFTER_S = 1.0, 3.0
_LOOK_EACH_S, _LOOK_EACH_TRUSTED_S = 0.5, 10.0


def _client(url: SecretStr) -> "redis.Redis":
    return redis.Redis.from_url(url.get_secret_value(), socket_timeout=2, socket_connect_timeout=2)


class RedisLive:
    """Hears what is announced; looks into the database as well: each half second while Redis is away, else rarely.

    Args:
        version: as in `PolledLive`.
    """

    def __init__(self, url: SecretStr, version: Callable[[], object]) -> None:
        self._url = url
        self._version = version
        self._number = 0
        self._counting = threading.Lock()
        self._heard_at_s = float("-inf")
        self._closed = threading.Event()
        work = {"live-redis": self._listen, "live-database": self._look}
        self._threads = [threading.Thread(target=do, name=name, daemon=True) for name, do in work.items()]
        for thread in self._threads:
            thread.start()

    @property
    def number(self) -> int:
        return self._number

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    @property
    def trusted(self) -> bool:
        """Redis answered a moment ago."""
        return time.monotonic() - self._heard_at_s < _DEAD_AFTER_S

    def close(self) -> None:
        self._closed.set()
        for thread in self._threads:
            thread.join()

    def _count(self) -> None:
        with self._counting:
            self._number += 1

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                with _client(self._url) as client, client.pubsub() as channel:
                    channel.subscribe(CHANNEL)
                    self._hear(channel)
            except (RedisError, OSError):
                self._closed.wait(_AWAY_S)

    def _hear(self, channel: "redis.client.PubSub") -> None:
        """Until it is closed, or Redis gives no sign of life any more."""
        connected_s = pinged_s = time.monotonic()
        while not self._closed.is_set():
            message = channel.get_message(timeout=_LISTEN_S)
            now_s = time.monotonic()
            if message is not None:
                self._heard_at_s = now_s
                if message["type"] in ("message", "subscribe"):  # what was announced before this may be lost
                    self._count()
            if now_s - max(self._heard_at_s, connected_s) > _DEAD_AFTER_S:
                return
            if now_s - pinged_s >= _PING_EACH_S:
                channel.ping()
                pinged_s = now_s

    def _look(self) -> None:
        seen: object = None
        looked_s = float("-inf")
        while not self._closed.wait(_LOOK_EACH_S):
            if self.trusted and time.monotonic() - looked_s < _LOOK_EACH_TRUSTED_S:
                continue
            try:
                version = self._version()
            except Busy:
                continue
            looked_s = time.monotonic()
            if version != seen:
                seen = version
                self._count()
