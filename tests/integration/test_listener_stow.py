"""The STOW-RS process, met over HTTP by good senders, by bad ones, and killed while it receives."""

import contextlib
import gzip
import http.client
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import trustme
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from pydicom.data import get_testdata_file

from hilum.adapters.folder import FolderInstances
from hilum.testing.dicom_files import chest_image, write
from hilum.testing.external import Process, need, wait_until
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


def test_real_files_are_stored_as_they_came_and_named_in_the_answer(stow: Running) -> None:
    names = ("CT_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "image_dfl.dcm", "MR_small_bigendian.dcm")
    paths = [Path(str(get_testdata_file(name))) for name in names]
    answer = post(stow.port, body_of([path.read_bytes() for path in paths]))
    assert (answer.status, answer.headers["content-type"]) == (200, "application/dicom+json")
    uids = [str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in paths]
    assert answer.stored == uids
    spool = FolderInstances(stow.data / "spool")
    kept = {spool.path(entry.uri).read_bytes() for entry in stow.received()}
    assert {path.read_bytes() for path in paths} <= kept


def test_dicomweb_client_stores_what_pydicom_reads_back(stow: Running) -> None:
    datasets = [dcmread(str(get_testdata_file(name))) for name in ("CT_small.dcm", "MR_small.dcm")]
    client = DICOMwebClient(f"http://127.0.0.1:{stow.port}")
    answer = client.store_instances(datasets)
    assert [item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence] == [
        dataset.SOPInstanceUID for dataset in datasets
    ]
    for dataset in datasets:
        assert dcmread(stow.stored(dataset.SOPInstanceUID)).PixelData == dataset.PixelData
    answer = client.store_instances(datasets[:1], study_instance_uid=datasets[0].StudyInstanceUID)
    assert "FailedSOPSequence" not in answer


def test_a_body_in_chunks_is_taken(stow: Running, tmp_path: Path) -> None:
    body = body_of([part10(tmp_path, "chunks")])
    answer = post(stow.port, iter([body[:10], body[10:300], body[300:]]))
    assert (answer.status, answer.stored) == (200, [uid_of("chunks")])


def test_xml_is_answered_to_those_who_take_nothing_else(stow: Running, tmp_path: Path) -> None:
    answer = post(stow.port, body_of([part10(tmp_path, "xml")]), Accept="application/dicom+xml")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/dicom+xml")
    assert uid_of("xml") in answer.body.decode()
    assert post(stow.port, body_of([b""]), Accept="image/png").status == 406


def test_the_study_of_the_url_is_the_only_one_taken(stow: Running, tmp_path: Path) -> None:
    body = body_of([part10(tmp_path, "mine")])
    study = str(small_image("mine").StudyInstanceUID)
    assert post(stow.port, body, path=f"/studies/{study}").status == 200
    other = post(stow.port, body, path="/studies/1.2.3")
    assert (other.status, other.failed) == (409, {uid_of("mine"): 0xA901})
    assert post(stow.port, body, path="/studies/1.2.x").status == 400
    assert post(stow.port, body, path="/studies/..%2f..%2fetc").status == 404
    assert post(stow.port, body, path="/studies/%2e%2e").status == 400


def test_some_stored_and_some_not_is_202_and_says_which(stow: Running, tmp_path: Path) -> None:
    answer = post(stow.port, body_of([part10(tmp_path, "good"), b"bad"]))
    assert (answer.status, answer.stored, answer.other_failures) == (202, [uid_of("good")], [0xC000])
    assert post(stow.port, body_of([b"bad"])).status == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Encoding": "gzip"}, 415),
        ({"Content_Type": "application/dicom"}, 415),
        ({"Content_Type": 'multipart/related; type="application/dicom+json"; boundary=x'}, 415),
        ({"Content_Type": 'multipart/related; type="application/dicom"'}, 400),
        ({"Content_Length": "99999999999999999"}, 413),
        ({"Origin": "http://evil.example"}, 403),
    ],
)
def test_what_cannot_be_taken_is_refused_before_its_body(
    stow: Running, tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    body = gzip.compress(bytes(1000)) if "Content_Encoding" in headers else body_of([part10(tmp_path, "refused")])
    answer = post(stow.port, body, connection=None, **headers)
    assert (answer.status, answer.stored) == (status, [])
    assert answer.body


def test_other_methods_and_addresses_are_not_served(stow: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", stow.port, timeout=20)
    for method, path, status in (("GET", "/studies", 405), ("DELETE", "/studies/1.2", 405), ("POST", "/", 404)):
        connection.request(method, path)
        response = connection.getresponse()
        response.read()
        assert response.status == status
    connection.close()


def test_one_connection_serves_many_requests(stow: Running, tmp_path: Path) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", stow.port, timeout=20)
    for name in ("first", "second", "third"):
        assert post(stow.port, body_of([part10(tmp_path, name)]), connection=connection).status == 200
        assert post(stow.port, body_of([b"x"]), connection=connection, Accept="image/png").status == 406
    connection.close()


def test_a_sender_that_holds_small_pieces_back_until_the_last_is_acknowledged_never_waits_40_ms(
    stow: Running, tmp_path: Path
) -> None:
    body, seconds = body_of([part10(tmp_path, "nagle")]), []
    head = f"POST /studies HTTP/1.1\r\nHost: x\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", stow.port), timeout=20) as connection:  # Nagle's algorithm is on
        for _ in range(41):
            begin, answer = time.monotonic(), b""
            for piece in (head.encode(), body[:50], body[50:800], body[800:]):
                connection.sendall(piece)
            while not answer.endswith(b"}"):
                answer += connection.recv(10_000)
            seconds.append(time.monotonic() - begin)
    assert median(seconds) < 0.035


def test_the_answer_leaves_after_the_syncs_of_each_file_and_the_journal(stow: Running, tmp_path: Path) -> None:
    """A page cache survives a kill, so what the kernel was asked for, and when, is looked at from outside."""
    trace, names = tmp_path / "trace", [f"traced {number}" for number in range(12)]
    calls, slow = "trace=fdatasync,fsync,sendto", "inject=fdatasync:delay_enter=50000"  # µs: a disk that takes its time
    strace = need("strace", install="strace")
    with Process(
        [strace, "-f", "-y", "-e", calls, "-e", slow, "-o", trace, "-p", str(stow.process.pid)],
        log=tmp_path / "strace.log",
    ) as tracer:
        tracer.wait_until(lambda: "attached" in tracer.log.read_text())
        assert post(stow.port, body_of([part10(tmp_path, name) for name in names])).status == 200
    done = list(_completed(trace.read_text()))
    answer = next(at for at, (_, what) in enumerate(done) if "HTTP/1.1 200" in what)
    synced = [what for call, what in done[:answer] if call in ("fdatasync", "fsync")]
    assert all(any(f"<{stow.stored(uid_of(name))}>" in what for what in synced) for name in names)
    assert "/journal/" in synced[-1]


def _completed(trace: str) -> Iterator[tuple[str, str]]:
    """Name and arguments of each call, in the order in which the calls returned."""
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        thread, _, call = line.partition(" ")
        call = call.strip()
        if call.endswith("<unfinished ...>"):
            begun[thread] = call
            continue
        if call.startswith("<... "):
            call = begun.pop(thread, call)
        yield call.split("(")[0], call


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


def test_below_the_free_space_to_keep_the_sender_is_told_to_come_back(tmp_path: Path) -> None:
    running = start_stow(tmp_path / "data", config="[listener]\nmin_free_mb = 1000000000\n")
    with running.process:
        answer = post(running.port, body_of([part10(tmp_path, "full")]))
        assert (answer.status, answer.other_failures) == (503, [0xA700])
        assert int(answer.headers["retry-after"]) > 0
        assert running.received() == []


def test_with_peers_only_their_hosts_are_served(tmp_path: Path) -> None:
    running = start_stow(tmp_path / "here", config='[[peers]]\nae_title = "WEB"\nhost = "127.0.0.1"\n')
    with running.process:
        assert post(running.port, body_of([part10(tmp_path, "peer")])).status == 200
        assert [entry.calling_ae for entry in running.received()] == ["WEB"]
    for elsewhere in ('host = "192.0.2.1"\n', ""):
        running = start_stow(tmp_path / "there", config=f'[[peers]]\nae_title = "WEB"\n{elsewhere}')
        with running.process:
            assert post(running.port, body_of([part10(tmp_path, "stranger")])).status == 403
            assert running.received() == []


def test_over_tls_a_peer_is_known_by_its_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name in ("localhost", "web.example", "other.example"):
        issued = authority.issue_cert(name)
        issued.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.crt"))
    config = f"""
[listener.tls]
certificate = "{tmp_path}/localhost.crt"
key = "{tmp_path}/localhost.key"
client_ca = "{tmp_path}/ca.pem"
[[peers]]
ae_title = "WEB"
certificate = "{tmp_path}/web.example.crt"
"""
    running = start_stow(tmp_path / "data", config=config)

    def status(shown: str | None) -> int:
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        if shown is not None:
            context.load_cert_chain(tmp_path / f"{shown}.crt", tmp_path / f"{shown}.key")
        connection = http.client.HTTPSConnection("localhost", running.port, timeout=20, context=context)
        return post(running.port, body_of([part10(tmp_path, "tls")]), connection=connection).status

    with running.process:
        assert status("web.example") == 200
        assert [entry.calling_ae for entry in running.received()] == ["WEB"]
        assert status("other.example") == 403
        with pytest.raises((ssl.SSLError, ConnectionError)):
            status(None)


def test_no_log_line_names_a_patient_or_an_instance(stow: Running, tmp_path: Path) -> None:
    study = str(small_image("log").StudyInstanceUID)
    post(stow.port, body_of([part10(tmp_path, "log"), b"Test^Case"]), path=f"/studies/{study}")
    post(stow.port, body_of([part10(tmp_path, "log")]), path="/studies/Test^Case")
    post(stow.port, body_of([b""], part_head=b"Test^Case\r\n"))
    wait_until(lambda: '"status": 202' in (stow.data / "stow.log").read_text(), what="the log")
    log = (stow.data / "stow.log").read_text()
    for secret in ("Test^Case", "T-1", study, uid_of("log")):
        assert secret not in log


def test_a_second_process_for_the_same_folder_does_not_start(stow: Running) -> None:
    with pytest.raises(AssertionError, match="another receiving process"):
        start_stow(stow.data)


def test_sigterm_lets_a_request_finish(tmp_path: Path) -> None:
    running = start_stow(tmp_path / "data")
    body = body_of([part10(tmp_path, "last")])
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        head = f"POST /studies HTTP/1.1\r\nHost: x\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:500])
        wait_until(lambda: unfinished(running) != [], what="the first part")
        stopping = threading.Thread(target=running.process.stop)
        stopping.start()
        time.sleep(0.5)
        connection.sendall(body[500:])
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
    stopping.join()
    assert running.process.popen.returncode == 0
    assert [entry.sop_instance_uid for entry in running.received()] == [uid_of("last")]


@pytest.mark.slow
def test_what_was_acknowledged_is_there_whenever_the_process_is_killed(tmp_path: Path) -> None:
    data, acknowledged, dice = tmp_path / "data", set[str](), random.Random(20261124)
    base, uid = part10(tmp_path, "kill"), uid_of("kill").encode()
    for turn in range(8):
        running = start_stow(data)
        assert unfinished(running) == []
        threading.Timer(dice.uniform(0.05, 0.6), running.process.popen.kill).start()
        for number in range(400):
            names = [uid[:-6] + b"%d%04d%d" % (turn, number, part) for part in range(3)]
            try:
                answer = post(running.port, body_of([base.replace(uid, name) for name in names]))
            except (OSError, http.client.HTTPException):
                break
            acknowledged.update(answer.stored)
        running.process.stop()
    journaled = {entry.sop_instance_uid: entry for entry in running.received()}
    assert len(acknowledged) > 24
    assert acknowledged - journaled.keys() == set()
    for name in acknowledged:
        path = FolderInstances(data / "spool").path(journaled[name].uri)
        assert path.read_bytes() == base.replace(uid, name.encode())
