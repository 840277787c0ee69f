"""Certificates and TLS on both sides, as PS3.15 B.12 has it: BCP 195, that is RFC 8996 and RFC 9325."""

import ssl
from datetime import UTC, datetime
from pathlib import Path

from hilum.runtime.config import Peer, Tls

_CIPHERS_1_2 = ":".join(
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
    )
)
"""RFC 9325 4.2: forward secrecy and authenticated encryption. Those of TLS 1.3 are all fit."""
_UTC_TIME = 0x17  # DER tag


class CertificateUnusable(Exception):
    """A certificate or key can't be used; the text names the file and says why, without any content of it."""


def certificate_der(path: Path) -> bytes:
    """The first certificate of a PEM file, DER.

    Raises:
        CertificateUnusable: unreadable, or there is none in it.
    """
    try:
        text = path.read_text("ascii")
        start = text.index(ssl.PEM_HEADER)
        return ssl.PEM_cert_to_DER_cert(text[start : text.index(ssl.PEM_FOOTER, start) + len(ssl.PEM_FOOTER)])
    except OSError as error:
        raise CertificateUnusable(f"{path}: can't be read: {type(error).__name__}") from error
    except ValueError as error:
        raise CertificateUnusable(f"{path}: holds no PEM certificate") from error


def valid_between(der: bytes) -> tuple[datetime, datetime]:
    """The first and the last moment of a certificate's validity (RFC 5280 4.1.2.5).

    Raises:
        CertificateUnusable: no certificate that can be read.
    """
    try:
        at = _inside(der, _inside(der, 0))  # Certificate, TBSCertificate
        if der[at] == 0xA0:  # its version
            at = _behind(der, at)
        for _field in ("serial number", "signature", "issuer"):
            at = _behind(der, at)
        first = _inside(der, at)
        return _time(der, first), _time(der, _behind(der, first))
    except (IndexError, ValueError) as error:
        raise CertificateUnusable("a certificate that can't be read") from error


def _header(der: bytes, at: int) -> tuple[int, int]:
    """Where a DER value begins, and its length."""
    length, start = der[at + 1], at + 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[at + 2 : start])
    return start, length


def _inside(der: bytes, at: int) -> int:
    return _header(der, at)[0]


def _behind(der: bytes, at: int) -> int:
    return sum(_header(der, at))


def _time(der: bytes, at: int) -> datetime:
    start, length = _header(der, at)
    text = der[start : start + length].decode("ascii")
    if der[at] == _UTC_TIME:  # two digits of the year: RFC 5280 4.1.2.5.1
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def server_context(tls: Tls, peers: tuple[Peer, ...]) -> ssl.SSLContext:
    """What the TLS port answers with. Callers must show a certificate when an authority or a peer's one is configured.

    A peer's own certificate is trusted as it is, signed by an authority or by itself.

    Raises:
        CertificateUnusable: a file is missing or wrong, the key has a pass phrase or belongs to another certificate.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, tls)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    pinned = [peer.certificate for peer in peers if peer.certificate is not None]
    try:
        if tls.client_ca is not None:
            context.load_verify_locations(cafile=tls.client_ca)
        for path in pinned:
            context.load_verify_locations(cadata=certificate_der(path))
    except (OSError, ValueError) as error:
        raise CertificateUnusable(f"{tls.client_ca}: holds no authority's certificate") from error
    if tls.client_ca is not None or pinned:
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a peer's certificate counts without its authority
    return context


def client_context(certificate: Path, own: Tls | None) -> ssl.SSLContext:
    """For an association to a peer that must show exactly this certificate; `own` is what Hilum shows when it is asked.

    The certificate, and not a host name in it, says who the peer is. The handshake fails for any other, also for one
    that this certificate has signed, so nothing is sent to whoever shows it.

    Raises:
        CertificateUnusable: a file is missing or wrong.
    """
    expected = certificate_der(certificate)
    context = _context(ssl.PROTOCOL_TLS_CLIENT, own)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=expected)
    except (OSError, ValueError) as error:
        raise CertificateUnusable(f"{certificate}: holds no certificate that can be read") from error

    class Pinned(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            if self.getpeercert(binary_form=True) != expected:
                raise ssl.SSLCertVerificationError("not the certificate that is configured for this peer")

    context.sslsocket_class = Pinned
    return context


def _context(protocol: int, own: Tls | None) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996: 1.0 and 1.1 are gone
    context.set_ciphers(_CIPHERS_1_2)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if own is not None:
        try:
            context.load_cert_chain(own.certificate, own.key, password=_no_pass_phrase)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            why = error.reason if isinstance(error, ssl.SSLError) and error.reason else type(error).__name__
            raise CertificateUnusable(f"{own.certificate} with {own.key}: {why}") from error
    return context


def _no_pass_phrase() -> str:
    raise ValueError("the key has a pass phrase")
