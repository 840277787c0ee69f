"""How connections become associations of fast.py. Overrides pynetdicom's internals as that file does."""

import resource
import socket
import struct
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.transport import AddressInformation, AssociationSocket, RequestHandler

from hilum_listener.transport.direct import Carried
from hilum_listener.transport.fast import FastAssociation, OpenReception
from hilum_listener.transport.tls import TlsServer

_READ_S = 0.5
"""How long one read may block inside a data set before the timers are looked at."""
_MAX_THREADS = 2000
"""Two for each connection, half-open ones too: beyond a thousand of those a new one is closed."""
_MAX_FILES = 1 << 16


class DirectHost(Protocol):
    """Serves a plain connection, or gives it to `carry_on` with what came on it."""

    def serve(self, connection: socket.socket, address: str, carry_on: Callable[[Carried], None]) -> None: ...


def allow_many_connections() -> None:
    """Raises the process's soft limit of open files; each connection takes two, and the usual 1024 would be few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class FastRequestHandler(RequestHandler):
    """Makes an association without copying what only is read."""

    server: "FastServer"

    def _create_association(self) -> Association:
        return make_association(self.server, self.request, self.client_address)


def make_association(server: "FastServer", connection: Any, client_address: Any) -> FastAssociation:
    ae = server.ae
    association = FastAssociation(ae, "acceptor")
    association._server = server
    association.name = "AcceptorThread"
    association.set_socket(AssociationSocket(association, client_socket=connection))
    association.dul.open_reception = server.open_reception
    acceptor = association.acceptor
    acceptor.maximum_length = ae.maximum_pdu_size
    acceptor.ae_title = server.ae_title
    acceptor.address_info = AddressInformation.from_tuple(server.server_address)
    acceptor.implementation_class_uid = ae.implementation_class_uid
    acceptor.implementation_version_name = ae.implementation_version_name
    acceptor.supported_contexts = server.contexts
    association.requestor.address_info = AddressInformation.from_tuple(client_address)
    association._handlers = {
        event: list(bound) if isinstance(bound, list) else bound for event, bound in server._handlers.items()
    }
    return association


class FastServer(TlsServer):
    """Plain connections are served directly, in threads that are used again; TLS ones in one each, by pynetdicom."""

    request_queue_size = 512
    open_reception: OpenReception | None = None
    host: DirectHost | None = None
    daemon_threads = True

    def process_request(self, request: Any, client_address: Any) -> None:
        if threading.active_count() > _MAX_THREADS:
            self.shutdown_request(request)
            return
        prepare(request, timeout_s=self.ae.network_timeout)
        if self.ssl_context is not None or self.host is None:
            super().process_request(request, client_address)
        else:
            self.host.serve(request, client_address[0], partial(self._carry_on, request, client_address))

    def _carry_on(self, connection: Any, client_address: Any, carried: Carried) -> None:
        """Lets pynetdicom have an association from its first byte on, or from where direct.py left it."""
        association = make_association(self, connection, client_address)
        association.carried = carried
        association.dul.carry_on(carried)
        evt.trigger(association, evt.EVT_CONN_OPEN, {"address": client_address})
        association.start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: the connection is closed, and the peer sees that."""

    def service_actions(self) -> None:
        """Nothing: pynetdicom collects garbage here."""


class SharedServer(FastServer):
    """Accepts from a socket where other processes accept too: whoever comes first has the connection."""

    def __init__(self, shared: socket.socket, *arguments: Any, **options: Any) -> None:
        self._shared = shared
        super().__init__(*arguments, **options)

    def server_bind(self) -> None:
        assert self.socket is not None
        self.socket.close()
        self.socket = self._shared
        self.socket.setblocking(False)  # another process may have been faster
        self.server_address = self.socket.getsockname()

    def server_activate(self) -> None:
        """Nothing: it listens already."""

    def server_close(self) -> None:
        """The socket is the other processes' too, so it is closed and not shut down."""
        if self.socket is not None:
            self.socket.close()


def prepare(connection: socket.socket, *, timeout_s: float | None) -> None:
    """A blocking socket whose reads and writes return in time, and that sends at once."""
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(_READ_S))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout_s or 60.0))


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
