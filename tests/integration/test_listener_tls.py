"""DICOM over TLS at the receiving process, met by DCMTK, by pynetdicom and by callers that mean no good."""

import socket
import ssl
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import time

from hilum.runtime.config import Tls
from hilum.testing.dicom_files import write
from hilum.testing.external import free_port
from hilum_listener.testing_scp import Running, associate, dcmtk, small_image, start_scp
from hilum_listener.transport.certificates import CertificateUnusable, server_context

CT1, CT2, OTHER = "ct1", "ct2", "other"


@dataclass(frozen=True)
class Site:
    """A running listener and the certificates around it: of ct1, ct2 by the site's authority, other's by nobody's."""

    running: Running
    folder: Path
    tls_port: int

    def context(self, who: str | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        if who is not None:
            context.load_cert_chain(self.folder / f"{who}.pem")
        return context

    def associate(self, calling: str, who: str | None) -> Association:
        ae = AE(ae_title=calling)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 20
        ae.add_requested_context(Verification)
        return ae.associate("localhost", self.tls_port, ae_title="HILUM", tls_args=(self.context(who), "localhost"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("certificates")
    authority, nobody = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    own = authority.issue_cert("localhost")
    own.private_key_pem.write_to_path(str(folder / "hilum.key"))
    own.cert_chain_pems[0].write_to_path(str(folder / "hilum.crt"))
    for name, by in ((CT1, authority), (CT2, authority), (OTHER, nobody)):
        shown = by.issue_cert(f"{name}.example")
        shown.private_key_and_cert_chain_pem.write_to_path(str(folder / f"{name}.pem"))
        shown.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        shown.cert_chain_pems[0].write_to_path(str(folder / f"{name}.crt"))
    tls_port = free_port()
    config = f"""
[listener.tls]
port = {tls_port}
certificate = "{folder}/hilum.crt"
key = "{folder}/hilum.key"
client_ca = "{folder}/ca.pem"

[[peers]]
ae_title = "CT1"
certificate = "{folder}/ct1.crt"

[[peers]]
ae_title = "CT2"
max_associations = 2

[[peers]]
ae_title = "BUSY"
max_associations_per_min = 2
"""
    running = start_scp(tmp_path_factory.mktemp("tls"), config=config)
    with running.process:
        yield Site(running, folder, tls_port)


def test_an_image_sent_by_dcmtk_over_tls_is_stored(site: Site, tmp_path: Path) -> None:
    sent = small_image("over-tls")
    path = write(tmp_path / "sent.dcm", sent)
    result = dcmtk(
        "storescu", "-v", "+tls", site.folder / "ct1.key", site.folder / "ct1.crt", "+cf", site.folder / "ca.pem",
        "-aet", "CT1", "-aec", "HILUM", "localhost", str(site.tls_port), path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert site.running.stored(sent.SOPInstanceUID).is_file()


def test_a_peer_is_known_by_its_certificate(site: Site) -> None:
    known = site.associate("CT1", CT1)
    assert known.is_established
    assert known.send_c_echo().Status == 0
    known.release()
    impostor = site.associate("CT1", CT2)  # signed by the site's authority, but another's
    assert impostor.is_rejected
    assert impostor.acceptor.primitive is not None
    assert (impostor.acceptor.primitive.result, impostor.acceptor.primitive.diagnostic) == (1, 3)
    other = site.associate("CT2", CT2)
    assert other.is_established
    other.release()


def test_a_peer_with_a_certificate_cannot_come_without_tls(site: Site) -> None:
    assert associate(site.running.port, sop_class=Verification, syntax="1.2.840.10008.1.2").is_rejected
    assert associate(site.running.port, sop_class=Verification, syntax="1.2.840.10008.1.2", calling="CT1").is_rejected
    plain = associate(site.running.port, sop_class=Verification, syntax="1.2.840.10008.1.2", calling="CT2")
    assert plain.is_established
    plain.release()


@pytest.mark.parametrize("who", [None, OTHER])
def test_a_caller_without_a_certificate_that_the_site_trusts_gets_no_association(site: Site, who: str | None) -> None:
    association = site.associate("CT2", who)
    assert not association.is_established


def test_tls_1_1_is_refused(site: Site) -> None:
    context = site.context(CT1)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the ssl module calls the old versions deprecated
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    raw = socket.create_connection(("localhost", site.tls_port), timeout=10)
    with raw, pytest.raises(ssl.SSLError, match=r"(?i)version"):
        context.wrap_socket(raw, server_hostname="localhost")


def test_callers_that_stall_in_the_handshake_do_not_hold_up_a_good_one(site: Site) -> None:
    stalled = [socket.create_connection(("localhost", site.tls_port), timeout=10) for _ in range(30)]
    stalled[0].sendall(b"\x16\x03\x01\x02\x00\x01")  # the start of a handshake
    stalled[1].sendall(b"\x01\x00\x00\x00\x00\xff")  # an A-ASSOCIATE-RQ in the clear
    try:
        good = site.associate("CT1", CT1)
        assert good.is_established
        good.release()
    finally:
        for connection in stalled:
            connection.close()


def test_a_peer_past_its_own_limits_is_rejected_for_the_moment(site: Site) -> None:
    def open_(calling: str) -> Association:
        return associate(site.running.port, sop_class=Verification, syntax="1.2.840.10008.1.2", calling=calling)

    two = [open_("CT2"), open_("CT2")]
    third = open_("CT2")
    assert third.is_rejected
    assert third.acceptor.primitive is not None
    # PS3.8 table 9-21: rejected-transient, presentation related, local limit exceeded
    assert (third.acceptor.primitive.result, third.acceptor.primitive.result_source) == (2, 3)
    assert third.acceptor.primitive.diagnostic == 2
    for association in two:
        association.release()
    for _ in range(2):
        open_("BUSY").release()
    congested = open_("BUSY")
    assert congested.acceptor.primitive is not None
    assert (congested.acceptor.primitive.result, congested.acceptor.primitive.diagnostic) == (2, 1)


def test_a_key_that_belongs_to_another_certificate_stops_the_start(site: Site, tmp_path: Path) -> None:
    wrong = Tls(certificate=site.folder / "hilum.crt", key=site.folder / "ct1.key")
    with pytest.raises(CertificateUnusable, match=r"hilum\.crt"):
        server_context(wrong, ())
    with pytest.raises(CertificateUnusable, match=r"gone\.crt"):
        server_context(Tls(certificate=tmp_path / "gone.crt", key=site.folder / "hilum.key"), ())
