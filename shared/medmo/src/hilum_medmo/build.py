"""Builds a checkpoint's ONNX graphs once and keeps them: `<checkpoint>/onnx/<key>/{vision,decoder}.onnx[.data]`.

The folder's name is made of the weights digest and the builder's version, so a change of either is another folder and a
folder that is in use is never rewritten. It is written under a temporary name and renamed when its bytes are on disk:
what exists is complete. Processes take turns by a lock; one that dies gives it back and leaves a temporary folder that
the next build removes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hilum_medmo.config import Qwen3VLConfig
from hilum_medmo.errors import CheckpointError
from hilum_medmo.graph.decoder import write_decoder
from hilum_medmo.graph.vision import write_vision
from hilum_medmo.identity import checkpoint_digest
from hilum_medmo.weights import Weights

BUILDER_VERSION = 2
"""Raise it with every change that makes other graphs of the same weights."""
_MANIFEST = "build.json"


@dataclass(frozen=True, slots=True)
class Built:
    """A complete build.

    Attributes:
        vision, decoder: the graphs, each with its data file beside it.
        fresh: True if this call made them, False if they were there.
    """

    vision: Path
    decoder: Path
    fresh: bool


@contextmanager
def built(checkpoint: Path, config: Qwen3VLConfig, digest: str, *, onnx_dir: Path | None = None) -> Iterator[Built]:
    """The checkpoint's graphs, made if need be; inside the block no other process removes them.

    Args:
        onnx_dir: where builds live; `<checkpoint>/onnx` if None. May be read-only once the build is there.

    Raises:
        CheckpointError: they are not there and cannot be made: weights lack a tensor, disk full, folder read-only.
    """
    root = onnx_dir or checkpoint / "onnx"
    target = root / _key(digest)
    fresh = False
    while True:
        with _lock(root, fcntl.LOCK_SH):
            if _complete(target, digest):
                yield Built(target / "vision.onnx", target / "decoder.onnx", fresh)
                return
        with _lock(root, fcntl.LOCK_EX):
            if not _complete(target, digest):
                _build(checkpoint, config, digest, root, target)
                fresh = True


def _key(digest: str) -> str:
    return hashlib.sha256(f"{BUILDER_VERSION} {digest}".encode()).hexdigest()[:16]


def _complete(target: Path, digest: str) -> bool:
    """Whether a build is there with the sizes it was made with; a disk that lost the tail of a file is found here."""
    try:
        manifest = json.loads((target / _MANIFEST).read_text(encoding="utf-8"))
        sizes = {name: (target / name).stat().st_size for name in manifest["files"]}
        return bool(manifest["digest"] == digest and sizes == manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _build(checkpoint: Path, config: Qwen3VLConfig, digest: str, root: Path, target: Path) -> None:
    for leftover in [*root.glob("tmp-*"), *(path for path in root.iterdir() if (path / _MANIFEST).exists())]:
        shutil.rmtree(leftover, ignore_errors=True)  # dead builds, and those of other weights or builder versions
    shutil.rmtree(target, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="tmp-", dir=root))
    try:
        with Weights(checkpoint) as weights:
            write_vision(config.vision, weights, folder)
            write_decoder(config, weights, folder)
        if checkpoint_digest(checkpoint) != digest:  # a training run swapped it meanwhile
            raise CheckpointError(f"{checkpoint} changed while its ONNX graphs were built; load it again")
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        manifest = {"builder_version": BUILDER_VERSION, "digest": digest, "precision": "fp32", "files": files}
        (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for path in [*folder.iterdir(), folder]:
            _sync(path)
        folder.chmod(0o755)  # mkdtemp's 0700 would hide the build from a service that runs as another user
        folder.rename(target)
        _sync(root)
    except OSError as error:
        raise CheckpointError(f"the ONNX graphs cannot be written to {root}: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _lock(root: Path, kind: int) -> Iterator[None]:
    path = root / ".lock"
    try:
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if kind != fcntl.LOCK_SH:
            raise CheckpointError(f"the ONNX graphs are not built and {root} cannot be written: {error}") from error
        yield  # a read-only folder has nobody who could change it
        return
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)
