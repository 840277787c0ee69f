"""For tests and `make prove-kill`: the receiving process is killed between every two steps, round after round.

Each round starts the scp role in a process of its own (`testing_forks`), which is killed before its n-th step. n goes
through all the steps of a round, again and again. What a round could not send, the next one sends again, as a modality
does.
"""

import argparse
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from pydicom import Dataset, dcmread

from hilum.adapters.folder import FolderInstances
from hilum.adapters.sql.database import database_path, open_database, reading
from hilum.adapters.sql.eventlog import SqlPublisher
from hilum.adapters.sql.schema import migrate
from hilum.adapters.sql.tables import instances, quarantine, removals
from hilum.ports.clock import SystemClock
from hilum.testing.clock import SetClock
from hilum.testing.dicom_files import write
from hilum_listener.handlers.assemble import Assembler
from hilum_listener.handlers.journal import InstanceReceived, read
from hilum_listener.settings import AssembleSettings, Places
from hilum_listener.testing import EXPLICIT, encoded_dataset, unfinished_files
from hilum_listener.testing_forks import Forks, run_round
from hilum_listener.testing_kill_services import prove_services
from hilum_listener.testing_scp import associate, small_image

_IMAGES_A_ROUND = 4
_ANSWER_S = 0.7


@dataclass
class Proof:
    """What happened. `acknowledged` counts instances, each once."""

    rounds: int = 0
    killed: int = 0
    steps_of_a_round: int = 0
    acknowledged: int = 0
    sent_again: int = 0
    left_over: int = 0
    steps_hit: set[int] = field(default_factory=set)


class _Senders:
    """Knows what was sent, and what was answered with success."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self.pending: list[str] = []
        self.acknowledged: set[str] = set()

    def more(self, count: int) -> None:
        for _ in range(count):
            self._number += 1
            image = small_image(f"kill-{self._number}")
            write(self._folder / f"{image.SOPInstanceUID}.dcm", image)
            self.pending.append(str(image.SOPInstanceUID))

    def path(self, uid: str) -> Path:
        return self._folder / f"{uid}.dcm"

    def send(self, port: int, *, associations: int) -> None:
        """Sends what is pending over so many associations at once; whatever isn't answered stays pending."""
        shares = [self.pending[n::associations] for n in range(associations)]
        threads = [threading.Thread(target=self._send, args=(port, share)) for share in shares if share]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.pending = [uid for uid in self.pending if uid not in self.acknowledged]

    def _send(self, port: int, uids: list[str]) -> None:
        association = associate(port, sop_class=_sop_class(self.path(uids[0])), syntax=EXPLICIT)
        association.dimse_timeout = _ANSWER_S  # pynetdicom waits so long for an answer on a connection that is gone
        for uid in uids:
            if not association.is_established:
                return
            try:
                status: Dataset = association.send_c_store(dcmread(self.path(uid)))
            except (RuntimeError, ValueError):
                return
            if status.get("Status") == 0x0000:
                self.acknowledged.add(uid)
        association.release()


def prove(data: Path, rounds: int, *, report: Callable[[str], None] = lambda _line: None) -> Proof:
    """Raises AssertionError as soon as something acknowledged is not there, differs, or is indexed twice."""
    for name in ("sent", "data"):
        (data / name).mkdir(parents=True)
    senders, spool = _Senders(data / "sent"), data / "data"
    proof = Proof(rounds=rounds)
    index, forks = _Index(spool), Forks()
    try:
        senders.more(_IMAGES_A_ROUND)
        proof.steps_of_a_round = run_round(forks, spool, partial(senders.send, associations=1), 0)
        for number in range(rounds):
            proof.sent_again += len(senders.pending)
            senders.more(max(0, _IMAGES_A_ROUND - len(senders.pending)))
            kill_at, turn = number % proof.steps_of_a_round + 1, number // proof.steps_of_a_round
            send = partial(senders.send, associations=1 + turn % 2)
            died = run_round(forks, spool, send, kill_at) == -signal.SIGKILL
            proof.killed += died
            proof.steps_hit |= {kill_at} if died else set()
            _check_files(spool, senders)
            index.check(senders.acknowledged)
            if number % 25 == 24:
                report(f"{number + 1} rounds, {proof.killed} kills, {len(senders.acknowledged)} acknowledged")
        run_round(forks, spool, partial(senders.send, associations=1), 0)
    finally:
        forks.close()
    assert senders.pending == []
    index.check(senders.acknowledged)
    proof.acknowledged = len(senders.acknowledged)
    proof.left_over = len(unfinished_files(spool / "spool"))
    assert index.tidy() == 0, "something is left that nobody was told of"
    return proof


def _check_files(data: Path, senders: _Senders) -> None:
    """Every acknowledged instance is journaled, and every file that is journaled for it holds what was sent."""
    store = FolderInstances(data / "spool")
    uris: dict[str, list[str]] = {}
    for path in (data / "spool" / "journal").glob("*.jsonl"):
        for entry, _ in read(path, 0, limit_bytes=1 << 30).entries:
            if isinstance(entry, InstanceReceived):
                uris.setdefault(entry.sop_instance_uid, []).append(entry.uri)
    for uid in senders.acknowledged:
        assert uris.get(uid), "an acknowledged instance is not journaled"
        kept = [uri for uri in uris[uid] if (data / "spool" / uri.removeprefix("spool:")).exists()]
        assert kept, "an acknowledged instance is not in the spool"
        for uri in kept:
            assert encoded_dataset(store.path(uri)) == encoded_dataset(senders.path(uid)), (
                "it differs from what was sent"
            )


class _Index:
    """Folds after each round, with a new assembler each time."""

    def __init__(self, data: Path) -> None:
        self._places = Places(data)
        self._engine = open_database(database_path(data))
        migrate(self._engine)

    def _assembler(self) -> Assembler:
        return Assembler(
            self._places,
            AssembleSettings(quiet_time=timedelta(days=1)),
            self._engine,
            SqlPublisher(SystemClock()),
            SystemClock(),
        )

    def check(self, acknowledged: set[str]) -> None:
        self._assembler().step()
        with reading(self._engine) as connection:
            indexed = list(connection.execute(sa.select(instances.c.sop_instance_uid)).scalars())
            refused = connection.execute(sa.select(quarantine.c.reason)).scalars().all()
        assert acknowledged <= set(indexed), "an acknowledged instance is not in the index"
        assert len(indexed) == len(set(indexed)), "an instance is in the index twice"
        assert refused == [], f"quarantined: {set(refused)}"

    def tidy(self) -> int:
        """Removes second files and what no one was told of; returns how many files with content are left of those."""
        clock = SetClock(SystemClock().now())
        assembler = Assembler(
            self._places, AssembleSettings(quiet_time=timedelta(days=1)), self._engine, SqlPublisher(clock), clock
        )
        while True:
            assembler._tidier.step()
            clock.advance(timedelta(seconds=1))
            with reading(self._engine) as connection:
                if any(self._places.runs.iterdir()) or connection.execute(sa.select(removals.c.uri)).first():
                    continue
                known = set(connection.execute(sa.select(instances.c.uri)).scalars())
            break
        files = {f"spool:{path.parent.name}/{path.name}" for path in self._places.spool.glob("??/*")}
        assert known <= files
        return len(files - known)


def _sop_class(path: Path) -> str:
    return str(dcmread(path, stop_before_pixels=True).SOPClassUID)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument(
        "--data", type=Path, help="an empty folder on the disk to prove it on; default: a temporary one"
    )
    given = parser.parse_args()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="prove-kill-", dir=given.data) as folder:
        proof = prove(Path(folder) / "instances", given.rounds, report=print)
        services = prove_services(Path(folder) / "services", given.rounds, report=print)
    print(
        f"{proof.rounds} rounds, {proof.killed} of them killed, before each of {len(proof.steps_hit)} steps; a round "
        f"without a kill has {proof.steps_of_a_round}.\n{proof.acknowledged} instances acknowledged: all there, bit "
        f"for bit, each in the index once. {proof.sent_again} sent again; {proof.left_over} files "
        f"that no one was told of, whole or half, were left and removed.\n"
        f"Steps, notifications and commitment requests: {services.rounds} rounds, "
        f"{services.killed} killed, before each of {len(services.steps_hit)} steps; {services.answered} requests "
        f"answered, all in the index once; {services.repeated} sent again and answered as they should be. "
        f"{time.monotonic() - begin:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
