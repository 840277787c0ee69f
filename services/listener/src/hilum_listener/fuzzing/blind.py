"""`python -m hilum_listener.fuzzing.blind TARGET REPORT SECONDS FOLDER BROKE`: one target without instrumentation.

Some ten times as many executions a second as under atheris; inputs of the grammar, and those of FOLDER damaged.
"""

import hashlib
import logging
import random
import sys
import time
import warnings
from pathlib import Path

from hilum_listener.fuzzing.grammar import GRAMMARS, damage
from hilum_listener.fuzzing.tally import Tally


def main(name: str, report: Path, seconds: float, folder: Path, broke: Path) -> int:
    """Returns 1 when an input broke the target; it is then in BROKE."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    tally = Tally(name, report)
    known = [path.read_bytes() for path in sorted(folder.iterdir())]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        draw = random.Random(time.time_ns())
        pick = draw.random()
        data = GRAMMARS[name](draw) if pick < 0.75 or not known else draw.choice(known)
        if pick > 0.5:
            data = damage(data, draw)
        try:
            tally.execute(data)
        except Exception:
            (broke / f"crash-{hashlib.sha256(data).hexdigest()[:40]}").write_bytes(data)
            raise
    tally.write()
    return 0


if __name__ == "__main__":
    target, told, limit, inputs, kept = sys.argv[1:]
    sys.exit(main(target, Path(told), float(limit), Path(inputs), Path(kept)))
