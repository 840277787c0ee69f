"""Which spool this is, among those of a cluster's listeners: eight hexadecimal digits that stay with the volume.

Its files, its journals and so the positions in them carry the name, so that each listener knows its own in the one
database. A host's name or a process id would not do: a volume may be mounted elsewhere, and pids repeat in containers.
"""

import os
import re
import secrets
from pathlib import Path

from hilum.adapters.folder import SCHEME, sync_folder

_NAME = re.compile(r"[0-9a-f]{8}")


def spool_name(spool: Path) -> str:
    """The name of an existing spool; given once, by whoever asks first.

    Raises:
        OSError: the spool can't be read or written, or its name is damaged.
    """
    path = spool / "name"
    try:
        return _read(path)
    except FileNotFoundError:
        part = spool / f".name-{secrets.token_hex(8)}"
        with part.open("x") as file:
            file.write(secrets.token_hex(4))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(part, path)  # the first one counts
        except FileExistsError:
            pass
        finally:
            part.unlink()
        sync_folder(spool)
        return _read(path)


def is_of_spool(journal: str, name: str) -> bool:
    """False for a journal of another spool. `journal` as `JournalWriter` names it; those of 0.3 had no spool's name."""
    parts = journal.split("-")
    return len(parts) < 4 or parts[1] == name


def of_spool(name: str) -> str:
    """For SQL's LIKE: the URIs of this spool's files, `spool:ab/<name><rest of the run>-<number>.dcm`."""
    return f"{SCHEME}__/{name}%"


def _read(path: Path) -> str:
    name = path.read_text()
    if _NAME.fullmatch(name) is None:
        raise OSError(f"{path.name} of the spool is damaged")
    return name
