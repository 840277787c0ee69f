"""Several receiving processes behind one port are one receiver to everybody outside."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hilum.testing.external import wait_until
from hilum.testing.hostile_files import CR, EXPLICIT, data_set
from hilum_listener.testing_pdu import (
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    COMMAND_LAST,
    DATA,
    DATA_SET_LAST,
    RELEASE_RP,
    RELEASE_RQ,
    Line,
    associate_rq,
    pdu,
    store_rq,
    value,
)
from hilum_listener.testing_scp import Running, start_scp

LIMITS = """
[listener]
processes = 3
max_associations = 6
"""
PEER = """
[[peers]]
ae_title = "HOSTILE"
max_associations = 4
"""


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Running]:
    running = start_scp(tmp_path, config=LIMITS)
    with running.process:
        yield running


def children(running: Running) -> list[int]:
    """Process ids; each is listed under the thread that started it."""
    tasks = Path(f"/proc/{running.process.pid}/task").iterdir()
    return sorted(int(pid) for task in tasks for pid in (task / "children").read_text().split())


def opened(stack: ExitStack, running: Running, *, verification: bool = False) -> tuple[Line, int]:
    line = stack.enter_context(Line(running.port))
    contexts = [(1, CR, EXPLICIT), *([(3, "1.2.840.10008.1.1", EXPLICIT)] if verification else [])]
    line.send(associate_rq(contexts))
    return line, line.receive()


def stores(line: Line, name: str) -> bool:
    line.send(pdu(DATA, value(COMMAND_LAST, store_rq(f"1.2.3.{name}"))))
    line.send(pdu(DATA, value(DATA_SET_LAST, data_set(name))))
    return line.receive() == DATA


def test_associations_go_to_several_processes_and_what_they_bring_is_journaled_by_each(three: Running) -> None:
    with ExitStack() as stack:
        lines = [opened(stack, three, verification=n % 2 == 0)[0] for n in range(6)]
        for number, line in enumerate(lines):
            assert stores(line, str(number))
    assert {entry.sop_instance_uid for entry in three.received()} == {f"1.2.3.{n}" for n in range(6)}
    assert len(children(three)) == 3


@pytest.mark.parametrize("config", [LIMITS, LIMITS + PEER])
def test_limits_hold_over_all_processes_and_a_release_frees_a_place(tmp_path: Path, config: str) -> None:
    limit = 4 if "peers" in config else 6
    running = start_scp(tmp_path, config=config)
    with running.process, ExitStack() as stack:
        lines = [opened(stack, running, verification=n % 2 == 0) for n in range(limit)]
        assert [kind for _, kind in lines] == [ASSOCIATE_AC] * limit
        assert [opened(stack, running)[1] for _ in range(4)] == [ASSOCIATE_RJ] * 4
        lines[0][0].send(pdu(RELEASE_RQ, bytes(4)))
        assert lines[0][0].end() == RELEASE_RP
        wait_until(lambda: opened(stack, running)[1] == ASSOCIATE_AC, what="the place")


def test_a_process_that_dies_takes_its_own_associations_only_and_another_takes_its_place(three: Running) -> None:
    before = children(three)
    with ExitStack() as stack:
        lines = [opened(stack, three)[0] for _ in range(6)]
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: len(children(three)) == 3 and before[0] not in children(three), what="another process")
        lost = [number for number, line in enumerate(lines) if not stores(line, str(number))]
        assert len(lost) < 6, "those of two processes go on"
        assert {entry.sop_instance_uid for entry in three.received()} == {
            f"1.2.3.{n}" for n in range(6) if n not in lost
        }
        again = [opened(stack, three)[1] for _ in lost]
        assert again == [ASSOCIATE_AC] * len(lost), "its places are free again"
        assert opened(stack, three)[1] == ASSOCIATE_RJ


def test_sigterm_ends_all_of_them(three: Running) -> None:
    pids = children(three)
    begin = time.monotonic()
    three.process.stop()
    assert time.monotonic() - begin < 10
    assert three.process.popen.returncode == 0
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert list((three.data / "spool").glob("??/*")) == []
