"""Decoding where it can be killed: a warm child process with limits on memory, processor time and patience.

A decoder in C can hang, crash or take all memory, on bytes that anyone may have sent. The child is started once and
serves one image after the other; one that it dies of costs that image and a new child, and nothing else. It imports
what decoding needs, and knows no model, database or network.
"""

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hilum.adapters.dicom.pixels import SquareFrame, display_frame, model_frame, png_of
from hilum.domain.errors import Reject, Retry

MEMORY_MB, CPU_S, PATIENCE_S = 4096, 60, 90.0
"""Beyond what the child has when it is idle, and beside the file that it maps; for one image."""
_PIPE_BYTES = 1 << 20
_LENGTH_BYTES = 4
_LOOK_AT_PARENT_S = 1.0
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


class DecodingChild:
    """For any number of threads, which wait for one another. The child starts with the first image, or `start`."""

    def __init__(self, *, memory_mb: int = MEMORY_MB, cpu_s: int = CPU_S, patience_s: float = PATIENCE_S) -> None:
        """`memory_mb` bounds its address space and `cpu_s` its processor time, `patience_s` the wait for its answer."""
        self._arguments = [str(memory_mb), str(cpu_s), str(os.getpid())]
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the child; 0 when there is none."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Starts the child, so that nobody waits for its imports later."""
        with self._lock:
            self._running()

    def warm(self) -> None:
        """Starts the child and waits until it can decode. Raises `Retry` when it doesn't come to that."""
        self._ask("nothing", Path("/dev/null"), 0, 0)

    def model_frame(self, path: Path, frame: int, *, longest_side: int = 1024) -> SquareFrame:
        """As `pixels.model_frame`.

        Raises:
            Reject, OSError: as it does; `Reject` too when the image takes more memory than it may.
            Retry: the child died of it, or gave no answer in time.
        """
        said, pixels = self._ask("model", path, frame, longest_side)
        shape = said["shape"]
        return SquareFrame(np.frombuffer(pixels, np.uint8).reshape(shape), said["rows"], said["columns"])

    def png(self, path: Path, frame: int, *, longest_side: int = 2048) -> bytes:
        """As `pixels.png_of` the `pixels.display_frame`. Raises as `model_frame`."""
        return bytes(self._ask("png", path, frame, longest_side)[1])

    def close(self) -> None:
        """Ends the child, whatever it does; the next image would start another."""
        process = self._process
        if process is not None:
            process.kill()  # whoever waits for its answer has the lock
        with self._lock:
            self._end()

    def _ask(self, what: str, path: Path, frame: int, longest_side: int) -> tuple[dict[str, Any], bytearray]:
        question = json.dumps([what, os.fspath(path.absolute()), frame, longest_side]).encode() + b"\n"
        with self._lock:
            deadline = time.monotonic() + self._patience_s
            try:
                process = self._send(question)
                said = json.loads(_read(process, int.from_bytes(_read(process, _LENGTH_BYTES, deadline)), deadline))
                content = _read(process, said.get("bytes", 0), deadline)
            except TimeoutError as error:
                self._end()
                raise Retry(f"the image could not be decoded within {self._patience_s:g} s") from error
            except EOFError as error:
                raise Retry(f"the image's decoder ended without an answer{self._end()}") from error
            except BaseException:
                self._end()  # half an answer may be in the pipe
                raise
        if "errno" in said:
            raise OSError(said["errno"], os.strerror(said["errno"]))
        if "reject" in said:
            raise Reject(said["reject"])
        return said, content

    def _send(self, question: bytes) -> "subprocess.Popen[bytes]":
        process = self._running()
        try:
            _write(process, question)
        except BrokenPipeError:  # it ended since the last image
            self._end()
            process = self._running()
            _write(process, question)
        return process

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hilum.adapters.dicom.decoding_child", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ | _ONE_THREAD,
        )
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # the pipe is slower then
            fcntl.fcntl(self._process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return self._process

    def _end(self) -> str:
        """Kills the child, and says how it ended where that was its own doing."""
        process, self._process = self._process, None
        if process is None:
            return ""
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.kill()
        code = process.wait()
        return f" ({signal.Signals(-code).name})" if code < 0 else ""


def _write(process: "subprocess.Popen[bytes]", data: bytes) -> None:
    assert process.stdin is not None
    os.write(process.stdin.fileno(), data)  # the whole of it: the pipe is empty, and larger than any path


def _read(process: "subprocess.Popen[bytes]", size: int, deadline: float) -> bytearray:
    """Exactly so many bytes. Raises TimeoutError, or EOFError when the child is gone."""
    assert process.stdout is not None
    fd, content = process.stdout.fileno(), bytearray(size)
    view, done = memoryview(content), 0
    while done < size:
        if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        count = os.readv(fd, [view[done:]])
        if not count:
            raise EOFError
        done += count
    return content


# --- in the child ----------------------------------------------------------------------------------------------------

Answer = tuple[dict[str, Any], memoryview]


def _model(path: Path, frame: int, longest_side: int) -> Answer:
    found = model_frame(path, frame, longest_side=longest_side)
    pixels = np.ascontiguousarray(found.pixels)
    return {"shape": pixels.shape, "rows": found.rows, "columns": found.columns}, pixels.data.cast("B")


def _png(path: Path, frame: int, longest_side: int) -> Answer:
    return {}, memoryview(png_of(display_frame(path, frame), longest_side=longest_side))


def _nothing(_path: Path, _frame: int, _longest_side: int) -> Answer:
    return {}, memoryview(b"")


_WORK: dict[str, Callable[[Path, int, int], Answer]] = {"model": _model, "png": _png, "nothing": _nothing}


def _limit(path: Path, memory_mb: int, cpu_s: int) -> None:
    """For the image that comes next: memory beside what is taken already, processor time beside what was used."""
    with open("/proc/self/statm", "rb") as statm:
        taken = int(statm.read().split()[0]) * resource.getpagesize()
    size = path.stat().st_size if path.is_file() else 0
    used = resource.getrusage(resource.RUSAGE_SELF)
    _set(resource.RLIMIT_AS, taken + size + (memory_mb << 20))
    _set(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + cpu_s)


def _set(limit: int, soft: int) -> None:
    hard = resource.getrlimit(limit)[1]
    resource.setrlimit(limit, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _answer(question: bytes, memory_mb: int, cpu_s: int) -> Answer:
    what, name, frame, longest_side = json.loads(question)
    try:
        path = Path(name)
        _limit(path, memory_mb, cpu_s)
        return _WORK[what](path, frame, longest_side)
    except Reject as error:
        return {"reject": error.reason}, memoryview(b"")
    except MemoryError:
        return {"reject": f"decoding it would take more than {memory_mb} MB"}, memoryview(b"")
    except OSError as error:
        return {"errno": error.errno or 5}, memoryview(b"")
    except Exception as error:
        return {"reject": f"a fault in the decoder ({type(error).__name__})"}, memoryview(b"")


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_AT_PARENT_S)
    os._exit(0)  # also when the main thread waits for a file that never comes


def main() -> int:
    """Answers until the parent closes its end."""
    memory_mb, cpu_s, parent = map(int, sys.argv[1:4])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the parent
    warnings.simplefilter("ignore")  # pydicom's quote values of the file
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold an image
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what a library prints is no answer
        for question in sys.stdin.buffer:
            said, content = _answer(question, memory_mb, cpu_s)
            head = json.dumps(said | {"bytes": len(content)}).encode()
            answers.write(len(head).to_bytes(_LENGTH_BYTES) + head)
            answers.write(content)
            answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
