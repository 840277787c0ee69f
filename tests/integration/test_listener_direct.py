"""Associations that only store are served without pynetdicom, and go on with it when something else comes."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from hilum.testing.hostile_files import CR, EXPLICIT, data_set
from hilum_listener.handlers.journal import AssociationChanged
from hilum_listener.testing_pdu import (
    ABORT,
    ASSOCIATE_AC,
    COMMAND,
    COMMAND_LAST,
    DATA,
    DATA_SET_LAST,
    RELEASE_RP,
    RELEASE_RQ,
    VERIFICATION,
    Line,
    associate_rq,
    pdu,
    store_rq,
    value,
)
from hilum_listener.testing_scp import Running, associate, start_scp
from hilum_listener.transport.direct import Threads

ECHO_RQ = struct.pack("<HHII", 0, 0, 4, 56) + b"".join(
    struct.pack("<HHI", 0, number, len(content)) + content
    for number, content in (
        (0x0002, VERIFICATION.encode() + b"\0"),
        (0x0100, b"\x30\0"),
        (0x0110, b"\7\0"),
        (0x0800, b"\1\1"),
    )
)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Line, "proposes_verification", False)


@pytest.fixture
def scp(tmp_path: Path) -> Iterator[Running]:
    running = start_scp(tmp_path)
    with running.process:
        yield running


def store(line: Line, name: str) -> int:
    line.send(pdu(DATA, value(COMMAND_LAST, store_rq(f"1.2.3.{name}"))))
    line.send(pdu(DATA, value(DATA_SET_LAST, data_set(name))))
    return line.receive()


def release(line: Line) -> None:
    line.send(pdu(RELEASE_RQ, bytes(4)))
    assert line.end() == RELEASE_RP


def threads(running: Running) -> int:
    return len(list(Path(f"/proc/{running.process.pid}/task").iterdir()))


def changes(running: Running) -> list[tuple[str, str]]:
    found = [entry for entry in running.entries() if isinstance(entry, AssociationChanged)]
    return [(entry.change, entry.association) for entry in found]


def test_the_acceptance_is_byte_for_byte_what_pynetdicom_sends(scp: Running) -> None:
    contexts = [(9, CR, EXPLICIT), (1, "1.2.3.4", "1.2.840.113619.5.2")]
    user = struct.pack(">BxHBxHI", 0x50, 34, 0x51, 4, 16384)
    user += struct.pack(">BxH", 0x52, 7) + b"1.2.3.4" + struct.pack(">BxH", 0x55, 11) + b"ELEVEN_LONG"
    request = associate_rq(contexts)
    plain = request[: request.index(b"\x50\0")] + user
    asked = plain.replace(struct.pack(">BxH", 0x50, 34), struct.pack(">BxH", 0x50, 42)) + struct.pack(
        ">BxHHH", 0x53, 4, 1, 1
    )  # the asynchronous operations window makes it one that isn't plain
    answers = []
    for wanted in (plain, asked):
        with Line(scp.port) as line:
            line.send(pdu(1, wanted[6:]))
            answers.append(line.whole())
            release(line)
    assert answers[0] == answers[1]
    assert answers[0][0] == ASSOCIATE_AC


def test_one_association_for_each_instance_takes_no_new_threads(scp: Running) -> None:
    with Line(scp.port).associate() as line:
        assert store(line, "0") == DATA
        release(line)
    before = threads(scp)
    for number in range(1, 40):
        with Line(scp.port).associate() as line:
            assert store(line, str(number)) == DATA
            release(line)
    assert threads(scp) <= before + 1
    assert len(scp.received()) == 40
    ids = [identity for _, identity in changes(scp)]
    assert [change for change, _ in changes(scp)] == ["opened", "released"] * 40
    assert ids[::2] == ids[1::2]
    assert len(set(ids)) == 40


def test_what_is_no_store_request_is_answered_by_pynetdicom_and_the_association_goes_on(scp: Running) -> None:
    with Line(scp.port).associate() as line:
        assert store(line, "1") == DATA
        line.send(pdu(DATA, value(COMMAND_LAST, ECHO_RQ)))
        assert line.receive() == DATA
        assert store(line, "2") == DATA
        release(line)
    assert [entry.sop_instance_uid for entry in scp.received()] == ["1.2.3.1", "1.2.3.2"]
    assert len({entry.association for entry in scp.received()}) == 1
    assert [change for change, _ in changes(scp)] == ["opened", "released"]
    assert {identity for _, identity in changes(scp)} == {scp.received()[0].association}


def test_a_request_whose_command_comes_in_pieces_is_stored(scp: Running) -> None:
    command = store_rq("1.2.3.3")
    with Line(scp.port).associate() as line:
        line.send(pdu(DATA, value(COMMAND, command[:30])) + pdu(DATA, value(COMMAND_LAST, command[30:])))
        line.send(pdu(DATA, value(DATA_SET_LAST, data_set("3"))))
        assert line.receive() == DATA
        assert store(line, "4") == DATA
        release(line)
    assert len(scp.received()) == 2


def test_an_association_that_pynetdicom_takes_over_counts_once(tmp_path: Path) -> None:
    running = start_scp(tmp_path, config="[listener]\nmax_associations = 1\n")
    with running.process:
        with Line(running.port).associate() as line:
            line.send(pdu(DATA, value(COMMAND_LAST, ECHO_RQ)))
            assert line.receive() == DATA
            refused = associate(running.port, sop_class=CR, syntax=EXPLICIT)
            assert refused.is_rejected
            release(line)
        deadline = time.monotonic() + 20
        while not (other := associate(running.port, sop_class=CR, syntax=EXPLICIT)).is_established:
            assert time.monotonic() < deadline
        other.release()


def test_a_sender_that_sends_on_before_it_is_accepted_harms_no_one(scp: Running) -> None:
    with Line(scp.port) as line:
        line.send(associate_rq([(1, CR, EXPLICIT)]) + pdu(DATA, value(COMMAND_LAST, store_rq("1.2.3.7"))))
        assert line.end() in (0, ABORT, ASSOCIATE_AC)
    with Line(scp.port).associate() as line:
        assert store(line, "6") == DATA


def test_sigterm_lets_a_request_finish_and_aborts_who_idles(scp: Running) -> None:
    with Line(scp.port).associate() as idle, Line(scp.port).associate() as busy:
        busy.send(pdu(DATA, value(COMMAND_LAST, store_rq("1.2.3.5"))))
        time.sleep(0.3)
        stopping = threading.Thread(target=scp.process.stop)
        stopping.start()
        assert idle.end() == ABORT
        busy.send(pdu(DATA, value(DATA_SET_LAST, data_set("5"))))
        assert busy.receive() == DATA
        stopping.join()
    assert [entry.sop_instance_uid for entry in scp.received()] == ["1.2.3.5"]


def test_random_bytes_behind_the_acceptance_end_the_association_and_nothing_else(scp: Running) -> None:
    dice = Random(11)
    for _ in range(60):
        start = pdu(DATA, value(COMMAND_LAST, store_rq("1.2.3.8"))) + pdu(DATA, value(DATA_SET_LAST, data_set("8")))
        sent = bytearray(start[: dice.randrange(len(start))] + dice.randbytes(dice.choice([0, 3, 300])))
        for _ in range(dice.randint(0, 3)):
            if sent:
                sent[dice.randrange(len(sent))] = dice.randrange(256)
        with Line(scp.port).associate() as line:
            line.send(bytes(sent))
            line._socket.shutdown(socket.SHUT_WR)
            line.end()
    with Line(scp.port).associate() as line:
        assert store(line, "6") == DATA


def test_a_thread_is_used_again_and_one_that_is_busy_holds_no_task_up() -> None:
    pool, go = Threads(), threading.Event()
    done: list[int] = []

    def note() -> None:
        done.append(threading.get_ident())

    pool.run(go.wait)  # type: ignore[arg-type]
    for number in range(20):
        pool.run(note)
        deadline = time.monotonic() + 10
        while len(done) <= number or not pool._idle:
            assert time.monotonic() < deadline
            time.sleep(0.001)
    assert len(set(done)) == 1
    go.set()
