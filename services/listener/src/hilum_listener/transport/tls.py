"""DICOM over TLS: the handshake, outside the thread that accepts."""

import socket
import ssl

from pynetdicom.transport import ThreadedAssociationServer


class TlsServer(ThreadedAssociationServer):
    """Accepts without waiting for a handshake: one caller that stalls in it must not hold up the others."""

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        if self.socket is None:
            raise OSError("not listening")
        connection, address = self.socket.accept()
        if self.ssl_context is None:
            return connection, address
        try:
            wrapped = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except BaseException:
            connection.close()
            raise
        return wrapped, address


def shake_hands(connection: ssl.SSLSocket, *, timeout_s: float) -> str:
    """Completes the handshake; returns why it could not, empty when it could."""
    before = connection.gettimeout()
    connection.settimeout(timeout_s)
    try:
        connection.do_handshake()
    except ssl.SSLError as error:
        return (error.reason or type(error).__name__).lower().replace("_", " ")
    except OSError as error:  # closed by the caller, or a timeout
        return type(error).__name__
    finally:
        connection.settimeout(before)
    return ""


def peer_certificate(connection: socket.socket | None) -> bytes | None:
    """The certificate that the caller showed and the handshake verified, DER; None without TLS or without one."""
    return connection.getpeercert(binary_form=True) if isinstance(connection, ssl.SSLSocket) else None
