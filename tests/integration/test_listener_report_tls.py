"""Commitment reports to a peer with a certificate: over TLS to exactly that one, from the real processes."""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from sys import executable

import pytest
import sqlalchemy as sa
import trustme
from pynetdicom import AE
from sqlalchemy import Engine

from hilum.adapters.sql.database import database_path, open_database, reading
from hilum.adapters.sql.schema import migrate
from hilum.adapters.sql.tables import commitment_requests
from hilum.domain.identity import derive_uid
from hilum.testing.external import Process, free_port, wait_until
from hilum_listener.handlers.commitment import MODEL_INSTANCE
from hilum_listener.testing_scp import start_scp
from hilum_listener.testing_services import COMMITMENT, Reports, Requester, asks_for


@dataclass(frozen=True)
class Certificates:
    """`peer` is what the requester shows, `other` is signed by the peer's own key, so only pinning tells them apart."""

    folder: Path

    def server(self, who: str) -> ssl.SSLContext:
        """Asks for a certificate of the site's authority, as a peer does that knows Hilum."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / f"{who}.pem")
        context.load_verify_locations(self.folder / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    authority, peer = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    own = authority.issue_cert("localhost")
    own.private_key_pem.write_to_path(str(tmp_path / "hilum.key"))
    own.cert_chain_pems[0].write_to_path(str(tmp_path / "hilum.crt"))
    peer.cert_pem.write_to_path(str(tmp_path / "peer.crt"))
    (tmp_path / "peer.pem").write_bytes(peer.private_key_pem.bytes() + peer.cert_pem.bytes())
    peer.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "other.pem"))
    return Certificates(tmp_path)


@dataclass
class Site:
    engine: Engine
    index: Process
    peer_port: int

    def state(self) -> tuple[str, int, str]:
        """How the report stands, after how many attempts, and why."""
        table = commitment_requests.c
        with reading(self.engine) as connection:
            row = connection.execute(sa.select(table.state, table.attempts, table.reason)).first()
        return ("", 0, "") if row is None else (row.state, row.attempts, row.reason)

    def wait_for_attempts(self, count: int) -> None:
        wait_until(lambda: self.state()[1] >= count and self.state()[0] == "due", timeout_s=60, what="attempts")


@pytest.fixture
def site(tmp_path: Path, certificates: Certificates) -> Iterator[Site]:
    """A requester that came over TLS has asked; its association is over."""
    data, tls_port, peer_port = tmp_path / "data", free_port(), free_port()
    data.mkdir()
    folder = certificates.folder
    config = f"""
[listener]
archive = true
[listener.tls]
port = {tls_port}
certificate = "{folder}/hilum.crt"
key = "{folder}/hilum.key"
[[peers]]
ae_title = "MODALITY"
host = "127.0.0.1"
port = {peer_port}
certificate = "{folder}/peer.crt"
"""
    engine = open_database(database_path(data))
    migrate(engine)
    with start_scp(data, config=config).process:
        _ask(certificates, tls_port)
        command: list[str | Path] = [executable, "-m", "hilum_listener", "assemble", "commit", "--data", data]
        with Process([*command, "--config", data / "hilum.toml"], log=data / "index.log") as index:
            yield Site(engine, index, peer_port)
    engine.dispose()


def _ask(certificates: Certificates, tls_port: int) -> None:
    context = ssl.create_default_context(cafile=certificates.folder / "ca.pem")
    context.load_cert_chain(certificates.folder / "peer.pem")
    entity = AE(ae_title="MODALITY")
    entity.add_requested_context(COMMITMENT)
    association = entity.associate("localhost", tls_port, ae_title="HILUM", tls_args=(context, "localhost"))
    status, _ = association.send_n_action(asks_for("t", [("1.2", "1.2.3")]), 1, COMMITMENT, MODEL_INSTANCE)
    association.release()
    assert status.Status == 0x0000


def test_a_report_reaches_a_peer_with_a_certificate_over_tls_where_hilum_shows_its_own(
    site: Site, certificates: Certificates
) -> None:
    reports = Reports()
    with Requester(reports, port=site.peer_port, tls=certificates.server("peer")):
        wait_until(lambda: site.state()[0] == "delivered", timeout_s=60, what="delivery")
    assert reports.transactions() == [derive_uid("transaction", "t")]


def test_no_report_goes_to_whoever_shows_another_certificate_even_one_that_the_peers_has_signed(
    site: Site, certificates: Certificates
) -> None:
    reports = Reports()
    with Requester(reports, port=site.peer_port, tls=certificates.server("other")):
        site.wait_for_attempts(2)
    assert reports.received == []
    assert site.state()[2] == "no association over TLS"


def test_no_report_goes_in_clear_to_a_peer_that_must_be_reached_over_tls(site: Site) -> None:
    reports = Reports()
    with Requester(reports, port=site.peer_port):
        site.wait_for_attempts(2)
    assert reports.received == []
    assert site.state()[2] == "no association over TLS"
