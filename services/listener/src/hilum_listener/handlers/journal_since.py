"""Since when the journals are all there: it tells a file that nobody was told of from one whose entry is gone.

`journal/since` is a file whose time says it. It is made with the folder, and each removal of old journals moves it on
first. A folder that was lost and made again begins anew, so nothing older than that counts as never acknowledged.
"""

import os
import time
from pathlib import Path

from hilum_listener.handlers.journal import sync_folder

_NAME = "since"
_SLACK_S = 1.0
"""Of the times that the file system gives."""


def journals_since(journal: Path) -> float | None:
    """Seconds since 1970; of every file that was written later the entry is in a journal, if there ever was one.

    None when nobody can say.
    """
    try:
        return (journal / _NAME).stat().st_mtime
    except OSError:
        return None


def begin_journals(journal: Path) -> None:
    """Says that all are here from now on, unless that was said before. A folder that isn't there is not made.

    Raises:
        OSError: it can't be written.
    """
    if journal.is_dir() and not (journal / _NAME).exists():
        _set(journal, time.time() - _SLACK_S)


def forget_journals(journal: Path, until_s: float) -> None:
    """To be called before journals whose last change is no later than that are removed.

    Raises:
        OSError: it can't be written; then they must stay.
    """
    before = journals_since(journal)
    if before is None or until_s > before:
        _set(journal, until_s if before is not None else time.time())


def _set(journal: Path, since_s: float) -> None:
    fd = os.open(journal / _NAME, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        os.utime(fd, (since_s, since_s))
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_folder(journal)
