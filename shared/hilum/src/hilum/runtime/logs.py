"""Logs are events with keys, one JSON object a line on standard error. No patient identity in any of them.

A study is named by its key (`hilum.domain.identity.study_key`). The keys that may appear are declared here; another
one is a programming error, found by the first test that logs it.
"""

import json
import logging
import sys
from datetime import UTC, datetime

KEYS = frozenset(
    {
        "address", "association", "attempt", "attempts", "bytes", "count", "data", "destination", "error",
        "exit_code", "format", "instances", "journal", "lane", "level", "model", "offset", "peer", "pid", "port",
        "process", "reason", "request_id", "result_key", "revision", "rule", "seconds", "service", "state", "status",
        "study", "time", "topic", "uri", "version", "worker",
    }
)  # fmt: skip


class JsonLines(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "event": record.getMessage(),
        }
        event.update(getattr(record, "keys", {}))
        if record.exc_info and record.exc_info[1] is not None:
            event["error"] = _where(record.exc_info[1])
        return json.dumps(event, default=str)


def _where(error: BaseException) -> str:
    """Type and place of an exception; its text stays out, since libraries quote input in it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else ""
    return f"{type(error).__name__}{place}"


class Log:
    """`log.info("study complete", study=key, revision=1)`."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def info(self, event: str, **keys: object) -> None:
        self._write(logging.INFO, event, keys)

    def warning(self, event: str, **keys: object) -> None:
        self._write(logging.WARNING, event, keys)

    def error(self, event: str, *, exc_info: BaseException | None = None, **keys: object) -> None:
        self._write(logging.ERROR, event, keys, exc_info)

    def _write(self, level: int, event: str, keys: dict[str, object], exc_info: BaseException | None = None) -> None:
        unknown = keys.keys() - KEYS
        if unknown:
            raise ValueError(f"log keys not declared in hilum.runtime.logs: {sorted(unknown)}")
        self._logger.log(level, event, extra={"keys": keys}, exc_info=exc_info)


def configure(service: str, *, level: int = logging.INFO) -> None:
    """Sends the log events of this process to standard error; libraries only from warnings on, without their text."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.ERROR)
    handler.addFilter(_hide_library_text)
    logging.getLogger("hilum").setLevel(level)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # an error for each attempt; the adapter says it once


def _hide_library_text(record: logging.LogRecord) -> bool:
    """A library's message may quote a patient's name (pydicom and pynetdicom do), so only its place is kept."""
    if not record.name.startswith("hilum"):
        record.msg = f"message of {record.name} at {record.filename}:{record.lineno}"
        record.args = ()
    return True
