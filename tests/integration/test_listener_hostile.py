"""Attackers meet the receiving process: after each of them a C-ECHO and a C-STORE are served, in bounded memory."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # no stubs
import pytest
from pynetdicom import AE, build_context

from hilum.testing.hostile_files import CR, EXPLICIT, data_set, nested
from hilum_listener.testing_pdu import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    COMMAND,
    COMMAND_LAST,
    DATA,
    DATA_SET,
    DATA_SET_LAST,
    VERIFICATION,
    Line,
    associate_rq,
    pdu,
    store_rq,
    stored,
    value,
    without_end,
)
from hilum_listener.testing_scp import Running, start_scp

UNTIL_CLOSED = 0
GROWTH = 300 << 20
PIECE = 16_012
"""16,000 bytes with the headers of their value and PDU."""


@pytest.fixture(autouse=True, params=["pynetdicom", "direct"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which an association is read meet the same."""
    monkeypatch.setattr(Line, "proposes_verification", request.param == "pynetdicom")


@pytest.fixture(scope="module")
def scp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start_scp(tmp_path_factory.mktemp("hostile") / "data")
    stored(running.port, "100")
    with running.process:
        yield running


def still_serves(scp: Running, name: str) -> None:
    ae = AE(ae_title="GOOD")
    ae.acse_timeout = ae.dimse_timeout = 20
    association = ae.associate("127.0.0.1", scp.port, contexts=[build_context(VERIFICATION)], ae_title="HILUM")
    assert association.send_c_echo().Status == 0
    association.release()
    assert stored(scp.port, name) == DATA
    assert any(entry.sop_instance_uid == f"1.2.3.{name}" for entry in scp.received())
    assert scp.process.popen.poll() is None


REQUEST = pdu(DATA, value(COMMAND_LAST, store_rq("1.2.3.66")))
BODY = data_set("66")
BROKEN: dict[str, bytes] = {
    "a PDU of 4 GB": pdu(DATA, value(COMMAND, b"ab"), length=0xFFFFFFFF) + bytes(3_000_000),
    "a release of 4 GB": pdu(5, b"", length=0xFFFFFFFF),
    "an unknown PDU": pdu(0x42, bytes(4)),
    "PDU type zero": bytes(64),
    "a request for an association within one": associate_rq([(1, CR, EXPLICIT)]),
    "an answer nobody asked for": pdu(2, bytes(68)),
    "a reject with a source that there is not": pdu(3, b"\0\x09\x09\x09"),
    "a value longer than its PDU": pdu(DATA, value(COMMAND_LAST, store_rq("1.2.3.66"), length=5000)),
    "a value of 4 GB": pdu(DATA, value(COMMAND_LAST, store_rq("1.2.3.66"), length=0xFFFFFFFF)),
    "a value of no bytes, not even its header": pdu(DATA, struct.pack(">I", 0)) + REQUEST,
    "a command of no bytes": pdu(DATA, value(COMMAND_LAST, b"")),
    "a command that does not exist": pdu(
        DATA, value(COMMAND_LAST, store_rq("1.2.3.66").replace(b"\0\1\2\0\0\0\1\0", b"\0\1\2\0\0\0\x77\x77"))
    ),
    "a command that is nested": pdu(DATA, value(COMMAND_LAST, nested(200, defined=True))),
    "a command of an element of 4 GB": pdu(DATA, value(COMMAND_LAST, struct.pack("<HHI", 0, 2, 0xFFFFFFF0))),
    "a data set's value longer than its PDU": REQUEST + pdu(DATA, value(DATA_SET, BODY, length=len(BODY) + 90)),
    "a data set's value of 4 GB": REQUEST + pdu(DATA, value(DATA_SET, BODY, length=0xFFFFFFFF)),
    "a data set of another context": REQUEST + pdu(DATA, value(DATA_SET, BODY[:60]) + value(DATA_SET, BODY, context=3)),
    "a command inside a data set": REQUEST + pdu(DATA, value(DATA_SET, BODY[:60])) + REQUEST,
    "a context that was not agreed on": pdu(
        DATA, value(COMMAND_LAST, store_rq("1.2.3.66"), context=77) + value(DATA_SET_LAST, BODY, context=77)
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_pdus_end_their_association_and_nothing_else(scp: Running, what: str) -> None:
    before = len(scp.received())
    with Line(scp.port).associate() as line:
        assert line.send(BROKEN[what]).end(within_s=15) in (ABORT, UNTIL_CLOSED)
    assert len(scp.received()) == before
    still_serves(scp, f"2{list(BROKEN).index(what)}")


@pytest.mark.parametrize(
    ("what", "sent"),
    [
        ("a first PDU of 4 GB", pdu(1, b"", length=0xFFFFFFFF)),
        ("a request cut short", associate_rq([(1, CR, EXPLICIT)])[:-20] + bytes(20)),
        ("data before an association", REQUEST),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    ],
)
def test_what_is_no_request_for_an_association_gets_none(scp: Running, what: str, sent: bytes) -> None:
    with Line(scp.port) as line:
        assert line.send(sent).end(within_s=15) in (ABORT, ASSOCIATE_RJ, UNTIL_CLOSED)
    still_serves(scp, "3" + str(len(sent)))


def test_a_request_with_thousands_of_items_is_answered_or_refused_in_time(scp: Running) -> None:
    contexts = [(2 * (n % 128) + 1, f"1.2.840.10008.5.1.4.1.1.{n}", EXPLICIT) for n in range(5000)]
    user_items = struct.pack(">BxH", 0x50, 40_000) + struct.pack(">BxHHB5sB", 0x54, 10, 5, 0, b"1.2.3", 0)[:14] * 2857
    for request in (associate_rq(contexts), associate_rq([(1, CR, EXPLICIT)], more=user_items)):
        with Line(scp.port) as line:
            assert line.send(request).receive() in (ASSOCIATE_AC, ASSOCIATE_RJ, ABORT, UNTIL_CLOSED)
    still_serves(scp, "41")


def test_fragments_of_zero_length_are_taken_for_what_they_are(scp: Running) -> None:
    with Line(scp.port).associate() as line:
        line.send(REQUEST)
        for piece in without_end(pdu(DATA, value(DATA_SET, b"")), times=2000):
            line.send(piece)
        assert line.send(pdu(DATA, value(DATA_SET_LAST, BODY))).receive() == DATA
    assert scp.stored("1.2.3.66").read_bytes().endswith(BODY)
    still_serves(scp, "51")


@pytest.mark.parametrize(
    "piece",
    [
        pdu(DATA, value(COMMAND, bytes(16_000))),
        pdu(DATA, value(COMMAND_LAST, store_rq("1.2.3.67").replace(b"\0\1\2\0\0\0\1\0", b"\0\1\2\0\0\0\x40\1")))
        + pdu(DATA, value(DATA_SET, bytes(16_000))),
    ],
    ids=["command", "data set of another service"],
)
def test_a_message_without_end_is_ended(scp: Running, piece: bytes) -> None:
    before = psutil.Process(scp.process.pid).memory_info().rss
    with Line(scp.port).associate() as line:
        line.send(piece)
        for again in without_end(piece[-PIECE:], times=3000):
            line.send(again)
        assert line.end(within_s=15) in (ABORT, UNTIL_CLOSED)
    assert psutil.Process(scp.process.pid).memory_info().rss - before < 100 << 20
    still_serves(scp, f"6{len(piece) % 97}")


def test_a_data_set_without_end_takes_no_memory_and_leaves_nothing(scp: Running) -> None:
    process = psutil.Process(scp.process.pid)
    before, received = process.memory_info().rss, len(scp.received())
    with Line(scp.port).associate() as line:
        line.send(REQUEST)
        for piece in without_end(pdu(DATA, value(DATA_SET, bytes(1 << 20))), times=200):
            line.send(piece)
        assert process.memory_info().rss - before < 50 << 20
    still_serves(scp, "71")
    assert len(scp.received()) == received + 1
    assert not [path for path in (scp.data / "spool").rglob("*") if path.is_file() and path.stat().st_size > 1 << 20]


def test_a_uid_that_is_a_path_is_refused_and_makes_none(scp: Running) -> None:
    for uid in ("../../../etc/x", "1.2/../../3", "1.2.3\x00/..", "A" * 300):
        with Line(scp.port).associate() as line:
            line.send(pdu(DATA, value(COMMAND_LAST, store_rq(uid))) + pdu(DATA, value(DATA_SET_LAST, BODY))).receive()
    names = {path.name for path in scp.data.rglob("*")}
    assert not {name for name in names if ".." in name or "AAAA" in name or name == "x"}
    still_serves(scp, "81")


@pytest.mark.parametrize("make", [lambda: nested(200, defined=False), lambda: nested(260, defined=True)])
def test_deep_sequences_are_received_since_their_sender_may_be_good(scp: Running, make: Callable[[], bytes]) -> None:
    data = data_set("91", before=make())
    with Line(scp.port).associate() as line:
        line.send(pdu(DATA, value(COMMAND_LAST, store_rq("1.2.3.91"))) + pdu(DATA, value(DATA_SET_LAST, data)))
        assert line.receive() == DATA
    still_serves(scp, f"9{len(data)}")


def test_after_all_that_the_process_has_not_grown(scp: Running, tmp_path: Path) -> None:
    process = psutil.Process(scp.process.pid)
    assert process.memory_info().rss < GROWTH
    assert process.num_threads() < 40
    assert "Traceback" not in scp.process.tail(200_000)
