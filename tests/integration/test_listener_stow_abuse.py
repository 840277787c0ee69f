"""The STOW-RS process, met by senders that break off, crawl, or send far too much."""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hilum.testing.dicom_files import chest_image, write
from hilum.testing.external import wait_until
from hilum_listener.handlers.journal import AssociationChanged
from hilum_listener.testing import unfinished_files
from hilum_listener.testing_scp import Running, small_image
from hilum_listener.testing_stow import BOUNDARY, MEDIA_TYPE, body_of, post, start_stow

QUICK = "[listener]\nidle_timeout_s = 1.5\nmax_associations = 3\n[listener.stow]\nmax_request_mb = 1\n"


@pytest.fixture(scope="module")
def stow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start_stow(tmp_path_factory.mktemp("stow"))
    with running.process:
        yield running


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Impatient, small, and with few places."""
    running = start_stow(tmp_path_factory.mktemp("quick"), config=QUICK)
    with running.process:
        yield running


def part10(folder: Path, name: str, **attributes: object) -> bytes:
    return write(folder / "sent.dcm", small_image(name, **attributes)).read_bytes()


def uid_of(name: str) -> str:
    return str(small_image(name).SOPInstanceUID)


def memory_mb(running: Running, field: str = "VmHWM") -> float:
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) / 1000


def unfinished(running: Running) -> list[Path]:
    return unfinished_files(running.data / "spool")


def test_a_sender_that_waits_for_100_continue_hears_a_refusal_instead(stow: Running) -> None:
    with socket.create_connection(("127.0.0.1", stow.port), timeout=20) as connection:
        head = "POST /studies HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1000000000\r\n"
        connection.sendall(f"{head}Content-Type: text/plain\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 415 ")


@pytest.mark.parametrize(
    "head",
    [
        b"X: " + b"y" * 100_000 + b"\r\n",
        b"".join(b"X-%d: y\r\n" % n for n in range(20_000)),
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: -1\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"\x00\xff: \x01\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    ],
)
def test_heads_that_no_honest_sender_writes_are_refused(stow: Running, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", stow.port), timeout=20) as connection:
        start = f"POST /studies HTTP/1.1\r\nHost: x\r\nContent-Type: {MEDIA_TYPE}\r\n".encode()
        try:
            connection.sendall(start + head + b"\r\n")
            answer = connection.recv(100)
        except ConnectionError:  # the rest of the bomb was still on its way
            answer = b""
        assert answer[:13] in (b"", b"HTTP/1.1 400 ", b"HTTP/1.1 501 ", b"HTTP/1.1 413 ")
    assert post(stow.port, body_of([b"x"])).status == 400, "it still serves"


def test_a_connection_that_breaks_in_the_second_part_keeps_the_first(stow: Running, tmp_path: Path) -> None:
    body = body_of([part10(tmp_path, "whole"), part10(tmp_path, "broken")])[:-300]
    with socket.create_connection(("127.0.0.1", stow.port), timeout=20) as connection:
        head = f"POST /studies HTTP/1.1\r\nHost: x\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: 100000\r\n\r\n"
        connection.sendall(head.encode() + body)
        wait_until(lambda: uid_of("whole") in [e.sop_instance_uid for e in stow.received()], what="the first part")
    wait_until(lambda: unfinished(stow) == [], what="the end of the second part")
    assert uid_of("broken") not in [entry.sop_instance_uid for entry in stow.received()]
    last = [entry for entry in stow.entries() if isinstance(entry, AssociationChanged)][-2:]
    assert [entry.change for entry in last] == ["opened", "aborted"]


def test_a_missing_closing_boundary_is_told(stow: Running, tmp_path: Path) -> None:
    body = body_of([part10(tmp_path, "closed"), part10(tmp_path, "open")])
    answer = post(stow.port, body[: -len(BOUNDARY) - 8])
    assert (answer.status, answer.stored, answer.failed) == (202, [uid_of("closed")], {uid_of("open"): 0xC000})


@pytest.mark.slow
def test_ten_thousand_tiny_parts_are_ten_thousand_instances(stow: Running, tmp_path: Path) -> None:
    base, uid = part10(tmp_path, "tiny"), uid_of("tiny").encode()
    parts = [base.replace(uid, uid[:-5] + b"%05d" % number) for number in range(10_000)]
    answer = post(stow.port, body_of(parts))
    assert (answer.status, len(set(answer.stored))) == (200, 10_000)
    assert memory_mb(stow) < 150
    assert unfinished(stow) == []


def test_a_part_of_300_mb_needs_little_memory(tmp_path: Path) -> None:
    running = start_stow(tmp_path / "data")
    dataset = chest_image(np.zeros((1, 2), np.uint16), study="large", name="large")
    start = write(tmp_path / "head.dcm", dataset).read_bytes()[:-8]
    block = bytes(1_000_000)
    head, tail = body_of([start + (300 * len(block)).to_bytes(4, "little")]).split(b"\r\n--hilum-test--")
    with running.process:
        answer = post(running.port, iter([head, *[block] * 300, b"\r\n--hilum-test--" + tail]))
        assert (answer.status, answer.stored) == (200, [str(dataset.SOPInstanceUID)])
        assert running.stored(str(dataset.SOPInstanceUID)).stat().st_size == len(start) + 4 + 300 * len(block)
        assert memory_mb(running) < 150


def test_a_request_that_grows_beyond_the_limit_is_cut_off(quick: Running, tmp_path: Path) -> None:
    first = body_of([part10(tmp_path, "before")])[: -len(BOUNDARY) - 6]
    endless = body_of([bytes(3_000_000)])
    alone = post(quick.port, iter([endless]))
    assert (alone.status, alone.other_failures) == (413, [0xC000])
    answer = post(quick.port, iter([first, endless]))
    assert (answer.status, answer.stored) == (202, [uid_of("before")])
    assert post(quick.port, endless).status == 413
    assert unfinished(quick) == []


def test_senders_that_crawl_lose_their_place(quick: Running) -> None:
    head = f"POST /studies HTTP/1.1\r\nHost: x\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: 9000\r\n\r\n".encode()
    crawling = [socket.create_connection(("127.0.0.1", quick.port), timeout=20) for _ in range(3)]
    for connection in crawling:
        connection.sendall(head)
    wait_until(lambda: post(quick.port, body_of([b"x"])).status == 503, what="all places taken")
    begin = time.monotonic()
    while time.monotonic() - begin < 1.2:  # a byte now and then does not count as sending
        for connection in crawling:
            connection.sendall(b"\r")
        time.sleep(0.3)
    for connection in crawling:
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
        connection.close()
    assert time.monotonic() - begin < 5
    assert post(quick.port, body_of([b"x"])).status == 400


def test_300_connections_that_never_finish_a_head_do_not_stop_a_good_one(stow: Running, tmp_path: Path) -> None:
    half_open = [socket.create_connection(("127.0.0.1", stow.port), timeout=20) for _ in range(300)]
    for connection in half_open[::2]:
        connection.sendall(b"POST /studies HTTP/1.1\r\nHost: ")
    assert post(stow.port, body_of([part10(tmp_path, "among many")])).status == 200
    for connection in half_open:
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(10) == b"", "closed after ten seconds"
        connection.close()
