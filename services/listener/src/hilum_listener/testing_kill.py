"""For tests and `make prove-kill`: the receiving process is killed between every two steps, round after round.

Each round starts the scp role in a process of its own, forked from one that has imported everything already, in which
the system calls of the durable path are counted and the n-th is preceded by SIGKILL. The counting is patched into that
process only: production code knows nothing of it. n goes through all the steps of a round, again and again. What a
round could not send, the next one sends again, as a modality does.
"""

import argparse
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

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
from hilum_listener.testing import EXPLICIT, encoded_dataset
from hilum_listener.testing_scp import associate, small_image

STEPS = ("open", "write", "writev", "fdatasync", "fsync", "close", "rename", "unlink", "ftruncate", "statvfs")
"""Functions of `os` that are counted, from the first look at the free space on; and what a socket sends."""
_IMAGES_A_ROUND = 4
_ANSWER_S = 0.7


def _serve(data: Path, kill_at: int) -> None:
    """Runs the scp role, and dies of SIGKILL before its step `kill_at`; 0 lets it live."""
    from hilum_listener import __main__

    steps = 0
    armed = False
    lock = threading.Lock()

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            nonlocal steps, armed
            with lock:
                armed = armed or name == "statvfs"
                steps += armed
                if steps == kill_at and armed:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        return step

    for name in STEPS:
        setattr(os, name, counted(name, getattr(os, name)))
    for name in ("send", "sendall"):
        setattr(socket.socket, name, counted(name, getattr(socket.socket, name)))
    with (data / "scp.log").open("ab") as log:
        os.dup2(log.fileno(), 2)
    (data / "steps").unlink(missing_ok=True)
    code = __main__.main(["scp", "--data", str(data), "--port", "0"])
    (data / "steps").write_text(str(steps))
    os._exit(code)


class _Forks:
    """A process that has imported everything and forks the scp role when told to, one at a time."""

    def __init__(self) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "hilum_listener.testing_kill", "--fork"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self.pid = 0
        self.ended: int | None = 0

    def start(self, data: Path, kill_at: int) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(json.dumps([str(data), kill_at]).encode() + b"\n")
        self.pid, self.ended = self._number(), None

    def wait(self, timeout_s: float) -> int | None:
        """How it ended, as `waitstatus_to_exitcode` says it; None when it hasn't yet."""
        assert self._popen.stdout is not None
        if self.ended is None and select.select([self._popen.stdout], [], [], timeout_s)[0]:
            self.ended = self._number()
        return self.ended

    def stop(self, signum: signal.Signals) -> int:
        if self.wait(0.0) is None:
            os.kill(self.pid, signum)
        ended = self.wait(30.0)
        assert ended is not None, "it does not end"
        return ended

    def close(self) -> None:
        if self.ended is None:
            self.stop(signal.SIGKILL)
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        self._popen.wait(10)

    def _number(self) -> int:
        assert self._popen.stdout is not None
        return int(self._popen.stdout.readline())


def _fork() -> int:
    from hilum_listener.transport import scp

    assert scp
    for line in sys.stdin.buffer:
        data, kill_at = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _serve(Path(data), kill_at)
        os.write(1, b"%d\n" % pid)
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    return 0


@dataclass
class Proof:
    """What happened. `acknowledged` counts instances, each once."""

    rounds: int = 0
    killed: int = 0
    steps_of_a_round: int = 0
    acknowledged: int = 0
    sent_again: int = 0
    without_acknowledgement: int = 0
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
    index, forks = _Index(spool), _Forks()
    try:
        senders.more(_IMAGES_A_ROUND)
        proof.steps_of_a_round = _round(forks, spool, senders, 0, 1)
        for number in range(rounds):
            proof.sent_again += len(senders.pending)
            senders.more(max(0, _IMAGES_A_ROUND - len(senders.pending)))
            kill_at, turn = number % proof.steps_of_a_round + 1, number // proof.steps_of_a_round
            died = _round(forks, spool, senders, kill_at, 1 + turn % 2) == -signal.SIGKILL
            proof.killed += died
            proof.steps_hit |= {kill_at} if died else set()
            _check_files(spool, senders)
            index.check(senders.acknowledged)
            if number % 25 == 24:
                report(f"{number + 1} rounds, {proof.killed} kills, {len(senders.acknowledged)} acknowledged")
        _round(forks, spool, senders, 0, 1)
    finally:
        forks.close()
    assert senders.pending == []
    index.check(senders.acknowledged)
    proof.acknowledged = len(senders.acknowledged)
    proof.without_acknowledgement = index.tidy()
    return proof


def _round(forks: _Forks, data: Path, senders: _Senders, kill_at: int, associations: int) -> int:
    """Minus the signal that ended it; of a round that is let live, how many steps it had."""
    port_file, log = data / "run" / "scp.port", data / "scp.log"
    port_file.unlink(missing_ok=True)
    forks.start(data, kill_at)
    deadline = time.monotonic() + 60
    while not port_file.exists():
        assert forks.wait(0.005) is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline, "it does not listen"
    senders.send(int(port_file.read_text()), associations=associations)
    forks.wait(0.3 if kill_at else 0.0)  # the last steps come after the last answer
    ended = forks.stop(signal.SIGTERM)
    assert ended in (0, -signal.SIGKILL), log.read_text()[-2000:]
    return int((data / "steps").read_text()) if ended == 0 else ended


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
        """Removes second files; returns how many whole files are left that nobody was told of."""
        clock = SetClock(SystemClock().now())
        assembler = Assembler(
            self._places, AssembleSettings(quiet_time=timedelta(days=1)), self._engine, SqlPublisher(clock), clock
        )
        while True:
            assembler._tidier.step()
            clock.advance(timedelta(seconds=1))
            with reading(self._engine) as connection:
                if connection.execute(sa.select(removals.c.uri)).first() is None:
                    known = set(connection.execute(sa.select(instances.c.uri)).scalars())
                    break
        files = {f"spool:{path.parent.name}/{path.name}" for path in self._places.spool.glob("??/*.dcm")}
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
    parser.add_argument("--fork", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fork:
        return _fork()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="prove-kill-", dir=given.data) as folder:
        proof = prove(Path(folder), given.rounds, report=print)
    print(
        f"{proof.rounds} rounds, {proof.killed} of them killed, before each of {len(proof.steps_hit)} steps; a round "
        f"without a kill has {proof.steps_of_a_round}.\n{proof.acknowledged} instances acknowledged: all there, bit "
        f"for bit, each in the index once. {proof.sent_again} sent again; {proof.without_acknowledgement} whole files "
        f"left that no one was told of. {time.monotonic() - begin:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
