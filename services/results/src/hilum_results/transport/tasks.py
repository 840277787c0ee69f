"""The cluster side of the wake-up port: a Celery application with one task, on Redis.

Celery only wakes. A task carries a destination's name and no work: what is due, who holds it and how often it was tried
stands in the ledger, so a message that is lost, repeated or late changes nothing. No message has an eta or a countdown,
since Redis hands out what a killed worker held only after the visibility timeout; a sweep wakes again each second.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import timedelta

from celery import Celery  # type: ignore[import-untyped]
from kombu.exceptions import KombuError, OperationalError
from pydantic import SecretStr
from redis.exceptions import RedisError

from hilum.domain.results import Format
from hilum.runtime.logs import Log

DELIVER = "hilum_results.transport.tasks.deliver"
QUEUE = "hilum.deliveries"
_MOST_QUEUED = 256
"""More wake-ups than this wait for workers that are away or behind: another one would tell them nothing."""
_AWAY = (OperationalError, KombuError, RedisError, OSError)
_CLOSE_S = 5.0

Deliver = Callable[[str, str], bool]
"""Delivers what is due at a destination in a format; True when it stopped before the end, so that others get a turn."""


def make_app(broker: SecretStr, *, time_limit: timedelta = timedelta(minutes=5)) -> Celery:
    """The application; connects to nothing yet.

    Args:
        time_limit: a task that takes longer is ended with its process. The delivery that it held comes free when its
            lease ends.
    """
    app = Celery("hilum_results", broker=broker.get_secret_value(), set_as_current=False)
    app.conf.update(
        task_acks_late=True,
        task_ignore_result=True,  # and there is no result backend
        task_serializer="json",
        accept_content=["json"],
        task_default_queue=QUEUE,
        task_time_limit=time_limit.total_seconds(),
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,  # a delivery under way is finished without Redis
        worker_proc_alive_timeout=60,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=2,
        broker_transport_options={
            "visibility_timeout": 3600,
            "socket_timeout": 5,
            "socket_connect_timeout": 2,
            "health_check_interval": 4,
            "socket_keepalive": True,
        },
    )
    return app


def add_task(app: Celery, deliver: Deliver) -> None:
    """Gives the application its one task."""

    def run(destination: str, format_: str) -> None:
        if deliver(destination, format_):
            app.send_task(DELIVER, [destination, format_], retry=False)

    app.task(name=DELIVER, max_retries=0, throws=_AWAY)(run)


class CeleryWakeUps:
    """Sends wake-ups from a thread of its own, so that no one waits for a Redis that is away.

    What can't be sent is forgotten: the sweep finds it in the ledger.
    """

    def __init__(self, app: Celery, formats: Mapping[str, Format], *, log: Log) -> None:
        self._app = app
        self._formats = formats
        self._log = log
        self._names: deque[str] = deque(maxlen=_MOST_QUEUED)
        self._something = threading.Event()
        self._closed = False
        self._sending = False
        self._away = False
        self._thread = threading.Thread(target=self._send_all, name="wake-ups", daemon=True)
        self._thread.start()

    def wake(self, destination: str) -> None:
        if destination in self._formats:
            self._names.append(destination)
            self._something.set()

    @property
    def waiting(self) -> bool:
        """Some are not sent yet."""
        return bool(self._names) or self._sending

    def close(self) -> None:
        self._closed = True
        self._something.set()
        self._thread.join(_CLOSE_S)

    def _send_all(self) -> None:
        while not self._closed:
            self._something.wait()
            self._something.clear()
            while self._names and not self._closed:
                self._sending = True
                self._send(self._names.popleft())
                self._sending = False

    def _send(self, name: str) -> None:
        started = time.monotonic()
        try:
            with self._app.pool.acquire(block=True) as connection:
                queued = connection.default_channel.queue_declare(queue=QUEUE, durable=True).message_count
                if queued < _MOST_QUEUED:
                    self._app.send_task(DELIVER, [name, self._formats[name].value], connection=connection, retry=False)
        except _AWAY as error:
            self._names.clear()
            if not self._away:
                seconds = round(time.monotonic() - started, 1)
                reason = f"Redis is away ({type(error).__name__})"
                self._log.warning("no wake-ups, the sweep delivers", reason=reason, seconds=seconds)
            self._away = True
        else:
            if self._away:
                self._log.info("wake-ups again")
            self._away = False
