"""`python -m hilum_listener.testing_large_index`: how fast instances are folded into an index that holds many already.

Alternates between an index with as many instances as asked for and an empty one (ABBA), with the same small instances,
and measures what folding alone takes: the files are read, hashed and indexed as the assemble role does it. Then the
time from an instance's journal entry to its being visible, one at a time.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine

from hilum.adapters.sql.database import open_database, reading, transaction
from hilum.adapters.sql.schema import migrate
from hilum.adapters.sql.tables import instances, series, studies
from hilum.domain.identity import derive_uid, study_key
from hilum.ports.clock import SystemClock
from hilum_listener.settings import AssembleSettings, Places
from hilum_listener.testing import EXPLICIT, START, Listener

_STUDY, _AT_ONCE = 250, 5000


def fill(engine: Engine, count: int) -> None:
    """Studies of 250 instances in two series, all complete."""
    uids = iter(range(count))
    while rows := [_row(number) for number in islice(uids, _AT_ONCE)]:
        with transaction(engine) as connection:
            connection.execute(sa.insert(instances), rows)
            for table, key in ((series, "series_instance_uid"), (studies, "study_instance_uid")):
                of = {row[key]: row for row in rows}
                connection.execute(sa.insert(table).prefix_with("OR IGNORE"), [_parent(table, r) for r in of.values()])


def _row(number: int) -> dict[str, Any]:
    study, part = number // _STUDY, number % 2
    return {
        "sop_instance_uid": derive_uid("large", str(number)),
        "series_instance_uid": derive_uid("ls", f"{study}-{part}"),
        "study_instance_uid": derive_uid("lst", str(study)), "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "transfer_syntax_uid": EXPLICIT, "uri": f"spool:{number:060x}", "sha256": f"{number:064x}",
        "size_bytes": 525_000,
        "rows": 512, "columns": 512, "frames": 1, "instance_number": number % _STUDY, "view_position": "",
        "photometric": "MONOCHROME2", "presentation_intent": "", "received_at": START,
    }  # fmt: skip


def _parent(table: sa.Table, row: dict[str, Any]) -> dict[str, Any]:
    study = row["study_instance_uid"]
    if table is series:
        return {
            "series_instance_uid": row["series_instance_uid"], "study_instance_uid": study, "modality": "CT",
            "body_part": "", "description": "",
        }  # fmt: skip
    return {
        "study_instance_uid": study, "study_key": study_key(study), "revision": 1, "receiving": False,
        "first_received_at": START, "last_received_at": START, "order_priority": "routine", "description": "",
        "modalities": "CT", "header": {}, "conflict": "", "calling_ae": "CT", "receiving_since": None,
    }  # fmt: skip


class _Side:
    """One listener with its own spool and index."""

    def __init__(self, folder: Path, held: int) -> None:
        folder.mkdir()
        self.engine = open_database(folder / "hilum.db")
        migrate(self.engine)
        fill(self.engine, held)
        self.clock = SystemClock()
        self.listener = Listener(Places(folder), self.engine, self.clock)  # type: ignore[arg-type]
        self.listener.settings = AssembleSettings(quiet_time=timedelta(hours=20))
        self.listener.assembler = self.listener.new_assembler()
        self.listener.assembler.step()

    def fold(self, round_name: str, count: int) -> float:
        """Instances a second."""
        for number in range(count):
            self.listener.image(study=f"{round_name}-{number // 50}", name=f"{round_name}-{number}", over=round_name)
        begin = time.perf_counter()
        self.listener.assembler.step()
        return count / (time.perf_counter() - begin)

    def visible_s(self, count: int) -> Iterator[float]:
        """Seconds from the answer until another connection finds the instance, with the role running."""
        stop = threading.Event()
        role = threading.Thread(target=self.listener.assembler.run, args=(stop,))
        role.start()
        try:
            for number in range(count):
                known = self._count()
                self.listener.image(study="visible", name=f"visible-{number}", over="visible")
                begin = time.perf_counter()
                while self._count() == known:
                    time.sleep(0.002)
                yield time.perf_counter() - begin
        finally:
            stop.set()
            role.join()

    def _count(self) -> int:
        """Of the newest study only: counting a million rows would be the slow part."""
        query = sa.select(sa.func.count()).where(instances.c.study_instance_uid == derive_uid("test-study", "visible"))
        with reading(self.engine) as connection:
            return int(connection.execute(query).scalar_one())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--held", type=int, default=1_000_000, help="instances that the large index holds")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--count", type=int, default=200, help="instances folded in one round")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="large-index-") as folder:
        large, empty = measure(Path(folder), given.held, given.rounds, given.count)
    return 0 if statistics.median(large) >= 0.9 * statistics.median(empty) else 1


def measure(folder: Path, held: int, rounds: int, count: int) -> tuple[list[float], list[float]]:
    """Rates of the large and of the empty side, a round each; prints them."""
    sides = {"large": _Side(folder / "large", held), "empty": _Side(folder / "empty", 0)}
    rates: dict[str, list[float]] = {"large": [], "empty": []}
    for number in range(rounds):
        for name in ("large", "empty") if number % 2 == 0 else ("empty", "large"):
            rates[name].append(sides[name].fold(f"{name}-{number}", count))
    for name, found in rates.items():
        print(f"{name}: {statistics.median(found):.0f} instances/s ({min(found):.0f} to {max(found):.0f})")
    print(f"ratio of the medians: {statistics.median(rates['large']) / statistics.median(rates['empty']):.2f}")
    waits = sorted(sides["large"].visible_s(100))
    print(f"visible after: median {statistics.median(waits):.3f} s, longest {waits[-1]:.3f} s")
    for side in sides.values():
        side.engine.dispose()
    return rates["large"], rates["empty"]


if __name__ == "__main__":
    sys.exit(main())
