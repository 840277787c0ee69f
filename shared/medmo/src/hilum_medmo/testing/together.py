"""Loading by several processes at once, importable by the processes that a test spawns."""

from multiprocessing.synchronize import Barrier
from pathlib import Path

from hilum_medmo.engine import load


def load_together(checkpoint: Path, start: Barrier) -> None:
    """Waits until every process is there, then loads."""
    start.wait(30)
    load(checkpoint, threads=1)
