"""Announces commits by Redis pub/sub. A message says `changed` and nothing else."""

import threading

from pydantic import SecretStr

CHANNEL = "hilum.live"
_CHANGED = "changed"
_AT_MOST_EACH_S = 0.25
_AWAY_S = 1.0


class RedisAnnouncer:
    """Publishes from a thread of its own, a few times a second at most; what can't be sent is forgotten."""

    def __init__(self, url: SecretStr) -> None:
        self._url = url
        self._something = threading.Event()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def changed(self) -> None:
        self._something.set()
        if self._thread is None:  # at the first change, so that a process may fork before
            with self._lock:
                if self._thread is None and not self._closed.is_set():
                    self._thread = threading.Thread(target=self._publish, name="live", daemon=True)
                    self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._something.set()

    def _publish(self) -> None:
        import redis  # here, since most who open a database never announce
        from redis.exceptions import RedisError

        with redis.Redis.from_url(self._url.get_secret_value(), socket_timeout=2, socket_connect_timeout=2) as client:
            while not self._closed.is_set():
                self._something.wait()
                self._something.clear()
                pause_s = _AT_MOST_EACH_S
                try:
                    client.publish(CHANNEL, _CHANGED)
                except (RedisError, OSError):
                    pause_s = _AWAY_S
                self._closed.wait(pause_s)
