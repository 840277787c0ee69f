"""Which lines of a target's modules a set of inputs reaches."""

import importlib
import logging
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

from hilum_listener.fuzzing.targets import TARGETS

_DICOM = ("hilum.adapters.dicom.precheck", "hilum.adapters.dicom.elements")
MODULES: Mapping[str, tuple[str, ...]] = {
    "pdu": ("hilum_listener.transport.pdata", "hilum_listener.transport.fast"),
    "part10": (*_DICOM, "hilum.adapters.dicom.header", "hilum.adapters.dicom.text"),
    "stow": (*_DICOM, "hilum_listener.handlers.multipart", "hilum_listener.handlers.stow"),
}


def lines_reached(name: str, inputs: Iterable[Path]) -> tuple[int, int]:
    """Lines inside functions that these inputs reach, and how many there are."""
    modules = [importlib.import_module(module) for module in MODULES[name]]
    every = {(str(module.__file__), line) for module in modules for line in _lines(module)}
    files = {str(module.__file__) for module in modules}
    reached: set[tuple[str, int]] = set()

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            reached.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    contents = [path.read_bytes() for path in inputs if path.is_file()]
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for content in contents:
            TARGETS[name](content)
    finally:
        sys.settrace(before)
    return len(reached & every), len(every)


def _lines(module: ModuleType) -> Iterator[int]:
    source = Path(str(module.__file__)).read_text()
    waiting = [compile(source, str(module.__file__), "exec")]
    while waiting:
        code = waiting.pop()
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        if "__qualname__" not in code.co_names and code.co_name != "<module>":
            yield from (line for _, _, line in code.co_lines() if line is not None and line != code.co_firstlineno)
