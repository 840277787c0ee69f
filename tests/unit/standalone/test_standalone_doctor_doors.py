"""`hilum doctor` on TLS, STOW-RS and the clock: dates, keys and ports, without and with something that answers."""

import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import create_server

import pytest
import trustme

from hilum.runtime.config import Site, parse
from hilum.testing.external import free_port
from hilum_listener.transport.certificates import CertificateUnusable, certificate_der, valid_between
from hilum_standalone.diagnosis.check import Check, Grade
from hilum_standalone.diagnosis.doors import clock, doors

NOW = datetime.now(UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    authority = trustme.CA()
    for name, days in (("own", 400), ("soon", 10), ("other", 400)):
        issued = authority.issue_cert("localhost", not_after=NOW + timedelta(days=days))
        issued.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.crt"))
    return tmp_path


def site(folder: Path, *, certificate: str = "own", key: str = "own", port: int = 2762, more: str = "") -> Site:
    return parse(
        f'[listener.tls]\nport = {port}\ncertificate = "{folder}/{certificate}.crt"\nkey = "{folder}/{key}.key"\n{more}'
    )


def checks(folder: Path, found: Site, *, running: bool = False, now: datetime = NOW) -> dict[str, Check]:
    return {check.what: check for check in doors(folder, found, running=running, now=now)}


@contextmanager
def answering(folder: Path, who: str) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{who}.crt", folder / f"{who}.key")
    with create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            try:
                connection, _ = server.accept()
                with connection, context.wrap_socket(connection, server_side=True):
                    pass
            except OSError:
                pass

        threading.Thread(target=serve, daemon=True).start()
        yield int(server.getsockname()[1])


@pytest.mark.parametrize(
    ("certificate", "later", "grade", "says"),
    [
        ("own", timedelta(0), Grade.OK, "valid until"),
        ("soon", timedelta(0), Grade.NOTE, "expires on"),
        ("soon", timedelta(days=11), Grade.RED, "expired on"),
        ("own", timedelta(days=-1), Grade.RED, "valid only from"),
    ],
)
def test_the_dates_of_the_certificate_are_told_in_time(
    folder: Path, certificate: str, later: timedelta, grade: Grade, says: str
) -> None:
    if grade is Grade.RED and later < timedelta(0):
        later = valid_between(certificate_der(folder / "own.crt"))[0] - NOW - timedelta(days=1)
    check = checks(folder, site(folder, certificate=certificate, key=certificate), now=NOW + later)["TLS certificate"]
    assert check.grade is grade
    assert says in check.found


def test_the_dates_read_are_those_that_openssl_reads(folder: Path) -> None:
    first, last = valid_between(certificate_der(folder / "soon.crt"))
    known = ssl._ssl._test_decode_cert(str(folder / "soon.crt"))  # type: ignore[attr-defined]  # not public
    assert first.timestamp() == ssl.cert_time_to_seconds(known["notBefore"])
    assert last.timestamp() == ssl.cert_time_to_seconds(known["notAfter"])
    with pytest.raises(CertificateUnusable):
        valid_between(b"\x30\x03\x02\x01\x01")


def test_a_key_of_another_certificate_is_red(folder: Path) -> None:
    check = checks(folder, site(folder, key="other"))["TLS"]
    assert check.grade is Grade.RED
    assert "own.crt" in check.found


def test_a_peers_certificate_is_looked_at_as_well(folder: Path) -> None:
    peer = f'[[peers]]\nae_title = "CT1"\ncertificate = "{folder}/soon.crt"\n'
    assert checks(folder, site(folder, more=peer))["Certificate of CT1"].grade is Grade.NOTE


def test_the_tls_port_must_show_the_configured_certificate(folder: Path) -> None:
    with answering(folder, "own") as port:
        assert checks(folder, site(folder, port=port), running=True)["DICOM TLS port"].grade is Grade.OK
    with answering(folder, "other") as port:
        assert checks(folder, site(folder, port=port), running=True)["DICOM TLS port"].grade is Grade.RED
    nobody = checks(folder, site(folder, port=free_port()), running=True)["DICOM TLS port"]
    assert (nobody.grade, "nothing answers" in nobody.found) == (Grade.RED, True)


def test_stow_is_green_when_it_answers_and_red_when_it_should(folder: Path) -> None:
    wanted = parse("[listener.stow]\nport = 8043\n")
    assert checks(folder, wanted, running=True)["STOW-RS"].grade is Grade.RED
    assert "STOW-RS" not in checks(folder, parse(""), running=True)
    (folder / "run").mkdir()
    with create_server(("127.0.0.1", 0)) as server:
        (folder / "run" / "stow.port").write_text(f"{server.getsockname()[1]}\n")
        assert checks(folder, wanted, running=True)["STOW-RS"].grade is Grade.OK
    assert checks(folder, wanted, running=True)["STOW-RS"].grade is Grade.RED


def test_a_clock_that_went_back_is_red(tmp_path: Path) -> None:
    assert clock(tmp_path, NOW).grade is not Grade.RED
    journal = tmp_path / "spool" / "journal" / "1.jsonl"
    journal.parent.mkdir(parents=True)
    journal.touch()
    os.utime(journal, ((NOW + timedelta(hours=2)).timestamp(),) * 2)
    check = clock(tmp_path, NOW)
    assert (check.grade, check.found) == (Grade.RED, "2:00:00 behind the last journal")
