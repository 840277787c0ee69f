"""The receiving process under senders that are large, many, slow, silent or gone."""

import contextlib
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from hilum_listener.testing import unfinished_files
from hilum_listener.testing_scp import Running, associate, dcmtk, start_scp

CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
SUCCESS, OUT_OF_RESOURCES, DOES_NOT_MATCH = 0x0000, 0xA700, 0xA900
MB = 1_000_000


class Sender:
    """Speaks to the port byte by byte, as no library would."""

    def __init__(self, port: int, *, associate: bool = True) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        if associate:
            self.socket.sendall(_request())
            assert self.pdu()[0] == 2

    def __enter__(self) -> "Sender":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def pdu(self) -> tuple[int, bytes]:
        """Type and content of the next PDU; type 0 when the connection is closed."""
        head = self._exactly(6)
        if len(head) < 6:
            return 0, b""
        return head[0], self._exactly(int.from_bytes(head[2:], "big"))

    def _exactly(self, size: int) -> bytes:
        content = b""
        with contextlib.suppress(ConnectionResetError):
            while len(content) < size and (more := self.socket.recv(size - len(content))):
                content += more
        return content

    def begin(self, uid: str) -> None:
        """The command of a C-STORE request."""
        elements = b"".join(
            (
                _element(0x0002, CT.encode()),
                _element(0x0100, b"\1\0"),
                _element(0x0110, b"\1\0"),
                _element(0x0700, b"\0\0"),
                _element(0x0800, b"\1\0"),
                _element(0x1000, uid.encode()),
            )
        )
        self.send(struct.pack("<HHII", 0, 0, 4, len(elements)) + elements, control=3)

    def send(self, fragment: bytes, *, control: int) -> None:
        self.socket.sendall(struct.pack(">BxIIBB", 4, len(fragment) + 6, len(fragment) + 2, 1, control))
        self.socket.sendall(fragment)

    def store(self, uid: str, size: int) -> int:
        """Sends a data set of so many bytes of pixel data; the status."""
        self.begin(uid)
        self.send(_head(uid, size), control=0)
        fragment = bytes(100_000)
        for at in range(0, size, len(fragment)):
            last = at + len(fragment) >= size
            self.send(fragment[: size - at], control=2 if last else 0)
        return self.status()

    def status(self) -> int:
        kind, content = self.pdu()
        assert kind == 4
        at = content.index(struct.pack("<HHI", 0, 0x0900, 2))
        return int.from_bytes(content[at + 8 : at + 10], "little")


def _request() -> bytes:
    def item(kind: int, content: bytes) -> bytes:
        return struct.pack(">BxH", kind, len(content)) + content

    context = item(0x20, b"\1\0\0\0" + item(0x30, CT.encode()) + item(0x40, EXPLICIT.encode()))
    user = item(0x50, item(0x51, struct.pack(">I", 0)) + item(0x52, b"1.2.3"))
    body = b"\0\1\0\0" + b"HILUM".ljust(16) + b"RAW".ljust(16) + bytes(32)
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + context + user
    return struct.pack(">BxI", 1, len(body)) + body


def _element(element: int, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", 0, element, len(value)) + value


def _head(uid: str, size: int) -> bytes:
    def text(element: int, value: str) -> bytes:
        content = value.encode() + b"\0" * (len(value) % 2)
        return struct.pack("<HH2sH", 8, element, b"UI", len(content)) + content

    return text(0x16, CT) + text(0x18, uid) + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, size)


def peak_rss(running: Running) -> float:
    """Megabytes; of the process since it started."""
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) * 1024 / MB


def unfinished(running: Running) -> list[Path]:
    return unfinished_files(running.data / "spool")


def until(condition: object, *, timeout_s: float = 20) -> bool:
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


@pytest.fixture
def scp(tmp_path: Path) -> Iterator[Running]:
    running = start_scp(tmp_path)
    with running.process:
        yield running


@pytest.mark.slow
def test_an_object_of_600_megabytes_is_never_in_memory(scp: Running) -> None:
    uid = generate_uid()
    with Sender(scp.port) as sender:
        assert sender.store(uid, 600 * MB) == SUCCESS
    stored = scp.stored(uid)
    assert stored.stat().st_size > 600 * MB
    stored.unlink()
    assert peak_rss(scp) <= 150


@pytest.mark.slow
def test_32_associations_at_once_take_no_more_than_400_megabytes(scp: Running) -> None:
    with contextlib.ExitStack() as stack:
        senders = [stack.enter_context(Sender(scp.port)) for _ in range(32)]
        found: list[int] = []
        threads = [
            threading.Thread(target=lambda s=sender: found.append(s.store(generate_uid(), 4 * MB)))
            for sender in senders
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert found == [SUCCESS] * 32
    assert peak_rss(scp) <= 400


@pytest.mark.parametrize(
    "goodbye", [b"", b"\7\0\0\0\0\4\0\0\0\0", b"\5\0\0\0\0\4\0\0\0\0", b"\4\0\0\0\0\6\0\0\0\2\1\3"]
)
def test_a_sender_that_breaks_off_inside_an_object_leaves_nothing(scp: Running, goodbye: bytes) -> None:
    with Sender(scp.port) as sender:
        sender.begin("1.2.3")
        sender.send(_head("1.2.3", 10 * MB) + bytes(2 * MB), control=0)
        assert until(lambda: unfinished(scp))
        sender.socket.sendall(goodbye)
    assert until(lambda: not unfinished(scp))
    assert scp.received() == []
    with Sender(scp.port) as sender:
        assert sender.store("1.2.4", 1000) == SUCCESS


def test_a_full_disk_inside_an_object_is_answered_after_its_end_and_the_association_goes_on(scp: Running) -> None:
    with Sender(scp.port) as sender:
        assert sender.store("1.2.3", 1000) == SUCCESS
        resource.prlimit(scp.process.pid, resource.RLIMIT_FSIZE, (MB, -1))
        assert sender.store("1.2.4", 5 * MB) == OUT_OF_RESOURCES
        assert unfinished(scp) == []
        assert sender.store("1.2.5", 1000) == SUCCESS
        resource.prlimit(scp.process.pid, resource.RLIMIT_FSIZE, (-1, -1))
        assert sender.store("1.2.4", 5 * MB) == SUCCESS, "the sender can try again"
    assert [entry.sop_instance_uid for entry in scp.received()] == ["1.2.3", "1.2.5", "1.2.4"]


def test_a_data_set_of_another_object_is_taken_to_its_end_and_refused(scp: Running) -> None:
    with Sender(scp.port) as sender:
        sender.begin("1.2.3")
        sender.send(_head("1.2.4", 2 * MB) + bytes(MB), control=0)
        sender.send(bytes(MB), control=2)
        assert sender.status() == DOES_NOT_MATCH
        assert unfinished(scp) == []
        assert sender.store("1.2.3", 1000) == SUCCESS


def test_300_half_open_connections_do_not_stop_a_good_one_and_are_closed(scp: Running) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(Sender(scp.port, associate=False)) for _ in range(150)]
        dribbling = [stack.enter_context(Sender(scp.port, associate=False)) for _ in range(150)]
        for sender in dribbling:
            sender.socket.sendall(_request()[:50])
        begin = time.monotonic()
        with Sender(scp.port) as good:
            assert good.store("1.2.3", 1000) == SUCCESS
        assert time.monotonic() - begin < 8
        assert all(sender.pdu()[0] in (0, 7) for sender in silent + dribbling)
        assert time.monotonic() - begin < 25


@pytest.mark.parametrize("dribble", [b"", b"\4\0\0\1\0\0\0\0\xff\xfa\1\0"])
def test_an_association_without_progress_is_aborted_and_frees_its_slot(tmp_path: Path, dribble: bytes) -> None:
    running = start_scp(tmp_path, config="[listener]\nidle_timeout_s = 1.0\nmax_associations = 1\n")
    with running.process, Sender(running.port) as slow:
        if dribble:
            slow.begin("1.2.3")
            slow.socket.sendall(dribble)
        slow.socket.settimeout(0.2)
        ended = b""
        deadline = time.monotonic() + 15
        while not ended and time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                ended = slow.socket.recv(1)
            with contextlib.suppress(OSError):
                slow.socket.sendall(b"\0" if dribble else b"")
        assert ended == b"\7"
        with Sender(running.port) as good:
            assert good.store("1.2.4", 1000) == SUCCESS
        assert until(lambda: not unfinished(running))


def test_one_association_too_many_is_refused_for_now_with_the_standard_reason(tmp_path: Path) -> None:
    running = start_scp(tmp_path, config="[listener]\nmax_associations = 2\n")
    with running.process, Sender(running.port), Sender(running.port) as second:
        third = associate(running.port, sop_class=CT, syntax=EXPLICIT)
        assert third.is_rejected
        answer = third.acceptor.primitive
        assert answer is not None
        assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)
        second.socket.sendall(b"\5\0\0\0\0\4\0\0\0\0")
        assert second.pdu()[0] == 6
        assert until(lambda: dcmtk("echoscu", "-aec", "HILUM", "127.0.0.1", str(running.port)).returncode == 0)


def test_requests_that_come_without_waiting_for_answers_are_all_answered_in_order(scp: Running) -> None:
    with Sender(scp.port) as sender:
        for number in range(1, 6):
            sender.begin(f"1.2.{number}")
            sender.send(_head(f"1.2.{number}", 1000) + bytes(1000), control=2)
        assert [sender.status() for _ in range(5)] == [SUCCESS] * 5
    assert [entry.sop_instance_uid for entry in scp.received()] == [f"1.2.{n}" for n in range(1, 6)]


def test_a_request_without_a_data_set_is_not_understood_and_the_association_goes_on(scp: Running) -> None:
    with Sender(scp.port) as sender:
        sender.begin("1.2.3")
        sender.send(b"", control=2)
        assert sender.status() == 0xC000
        assert sender.store("1.2.3", 1000) == SUCCESS
