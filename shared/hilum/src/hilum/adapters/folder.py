"""Instances in a folder: the listener's own spool, or one that every service mounts. Paths come from digests only."""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from hilum.domain.errors import Busy, Reject, Retry

_KEY = re.compile(r"[0-9a-f]{2}/[0-9a-f]{16,64}-[0-9a-f]{16,64}\.dcm")
SCHEME = "spool:"
SHARED = "shared:"
_PIECE_BYTES = 1 << 20


class FolderInstances:
    """`spool:ab/<digest of the SOP Instance UID>-<digest or number>.dcm` under one root; `shared:` for a shared mount.

    A shared mount may be NFS: what is published is synced, named by rename, and the folder synced.
    """

    def __init__(self, root: Path, *, scheme: str = SCHEME) -> None:
        self._root = root
        self._scheme = scheme

    def uri_of(self, *, sop_instance_uid: str, sha256: str) -> str:
        return self._scheme + key_of(sop_instance_uid, sha256)

    def publish(self, file: Path, *, sop_instance_uid: str, sha256: str) -> str:
        if file.is_relative_to(self._root):  # the spool's own files are where their readers look
            return self._scheme + file.relative_to(self._root).as_posix()
        key = key_of(sop_instance_uid, sha256)
        target = self._root / key
        with file.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            if _has_size(target, size):
                return self._scheme + key
            check_digest(file, sha256)
            try:
                _place(source, target)
            except OSError as error:
                raise Busy(f"the instance store can't be written: {type(error).__name__}") from error
        return self._scheme + key

    def path(self, uri: str) -> Path:
        path = self._local(uri)
        if not path.exists():
            raise Retry("the instance is not in the store")
        return path

    def exists(self, uri: str, *, size_bytes: int | None = None) -> bool:
        path = self._local(uri)
        return path.exists() and (size_bytes is None or _has_size(path, size_bytes))

    def delete(self, uri: str) -> None:
        path = self._local(uri)
        try:
            path.unlink(missing_ok=True)
            if path.parent.exists():
                sync_folder(path.parent)
        except OSError as error:
            raise Busy(f"the instance store can't be written: {type(error).__name__}") from error

    def clear_unfinished(self, *, before: datetime) -> int:
        if self._scheme == SCHEME:  # the spool's receivers clear what they left
            return 0
        count = 0
        try:
            for part in self._root.glob("??/.*.part"):
                if part.stat().st_mtime < before.timestamp():
                    part.unlink(missing_ok=True)
                    count += 1
        except OSError as error:
            raise Busy(f"the instance store can't be read: {type(error).__name__}") from error
        return count

    def _local(self, uri: str) -> Path:
        return self._root / key_in(uri, self._scheme)


def key_of(sop_instance_uid: str, sha256: str) -> str:
    """Where an instance lies in a store: `ab/<digest of the UID>-<digest of the bytes>.dcm`."""
    digest = hashlib.sha256(sop_instance_uid.encode("utf-8", "surrogatepass")).hexdigest()[:40]
    return f"{digest[:2]}/{digest}-{sha256}.dcm"


def key_in(uri: str, scheme: str) -> str:
    """Raises: Reject: the URI is not of this scheme, or its key is none."""
    key = uri.removeprefix(scheme)
    if not uri.startswith(scheme) or _KEY.fullmatch(key) is None:
        raise Reject("the instance's URI is not one of this store's")
    return key


def check_digest(file: Path, sha256: str) -> None:
    """Raises: Reject: the bytes are others. OSError: the file can't be read."""
    with file.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != sha256:
            raise Reject("the file's bytes are not those that were received")


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _place(source: BinaryIO, target: Path) -> None:
    """Data, then its name, each durable; nothing half-written stays under the name."""
    if not target.parent.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        sync_folder(target.parent.parent)
    part = target.with_name(f".{target.stem[:16]}-{secrets.token_hex(8)}.part")
    try:
        with part.open("xb") as copy:
            shutil.copyfileobj(source, copy, _PIECE_BYTES)
            copy.flush()
            os.fsync(copy.fileno())
        part.rename(target)
        sync_folder(target.parent)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False
