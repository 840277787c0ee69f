"""The STOW-RS process at a site: who is let in, what is synced, and what a stop or a kill leaves."""

import http.client
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from hilum.adapters.folder import FolderInstances
from hilum.testing.dicom_files import write
from hilum.testing.external import Process, need, wait_until
from hilum_listener.testing import unfinished_files
from hilum_listener.testing_scp import Running, small_image
from hilum_listener.testing_stow import MEDIA_TYPE, body_of, post, start_stow


@pytest.fixture(scope="module")
def stow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start_stow(tmp_path_factory.mktemp("stow"))
    with running.process:
        yield running


def part10(folder: Path, name: str, **attributes: object) -> bytes:
    return write(folder / "sent.dcm", small_image(name, **attributes)).read_bytes()


def uid_of(name: str) -> str:
    return str(small_image(name).SOPInstanceUID)


def unfinished(running: Running) -> list[Path]:
    return unfinished_files(running.data / "spool")


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
