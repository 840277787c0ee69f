"""The storage and verification SCP, on pynetdicom's association machinery."""

import itertools
import os
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary, WeakSet

from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import time

from hilum.adapters.dicom.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from hilum.ports.clock import Clock
from hilum.runtime.config import Peer
from hilum.runtime.logs import Log
from hilum_listener.handlers.desk import Desk
from hilum_listener.handlers.journal import AssociationChanged, JournalWriter
from hilum_listener.handlers.offers import Offers
from hilum_listener.handlers.peers import PeerLimits, Refusal, admit
from hilum_listener.handlers.receive import Reception, Request, Status
from hilum_listener.handlers.spool import Spool
from hilum_listener.settings import ScpSettings
from hilum_listener.transport.accept import FastRequestHandler, FastServer, SharedServer, allow_many_connections
from hilum_listener.transport.certificates import certificate_der, server_context
from hilum_listener.transport.direct import Carried, Direct, Threads
from hilum_listener.transport.fast import FastAssociation
from hilum_listener.transport.pdata import StoreRequest
from hilum_listener.transport.request import Answer, user_information
from hilum_listener.transport.services import Services, contexts
from hilum_listener.transport.tls import peer_certificate, shake_hands

_LOG = Log("hilum.listener.scp")
_ACSE_TIMEOUT_S = 10.0
_CONNECTIONS = 100_000
_DRAIN_S = 8.0
_IDLE_BEFORE_ABORT_S = 1.0


class Scp:
    """Accepts associations until it is stopped."""

    def __init__(
        self,
        settings: ScpSettings,
        spool: Spool,
        journal: JournalWriter,
        clock: Clock,
        *,
        desk: Desk,
        offers: Offers,
        limits: PeerLimits | None = None,
    ) -> None:
        """`limits`: those that other receiving processes share."""
        self._settings = settings
        self._spool = spool
        self._journal = journal
        self._clock = clock
        self._prefix = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._open: dict[Association | Direct, Peer | None] = {}
        self._directs: set[Direct] = set()
        self._threads = Threads()
        self.user = user_information(
            max_pdu=settings.max_pdu, class_uid=IMPLEMENTATION_CLASS_UID, version=IMPLEMENTATION_VERSION
        )
        self.acse_timeout_s = _ACSE_TIMEOUT_S
        self.idle_timeout_s = settings.idle_timeout_s
        self._noted: WeakSet[Association] = WeakSet()
        self._ids: WeakKeyDictionary[Association, str] = WeakKeyDictionary()
        self._servers: list[Any] = []
        self._limits = limits or PeerLimits()
        self._certificates = {p: certificate_der(p.certificate) for p in settings.peers if p.certificate is not None}
        self._ae = self._entity()
        self._services = Services(desk, offers, self._who)

    def _entity(self) -> AE:
        # every storage class, private ones too, in the first transfer syntax that the peer proposes, whatever it is
        _config.UNRESTRICTED_STORAGE_SERVICE = True
        _config.LOG_HANDLER_LEVEL = "none"
        ae = AE(ae_title=self._settings.ae_title)
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = IMPLEMENTATION_VERSION
        ae.maximum_pdu_size = self._settings.max_pdu
        ae.maximum_associations = _CONNECTIONS  # half-open ones count there; those admitted are counted here
        ae.acse_timeout = _ACSE_TIMEOUT_S
        ae.dimse_timeout = self._settings.idle_timeout_s
        ae.network_timeout = self._settings.idle_timeout_s
        ae.add_supported_context(Verification, ALL_TRANSFER_SYNTAXES)
        for context in contexts():
            ae.add_supported_context(
                str(context.abstract_syntax), context.transfer_syntax, context.scu_role, context.scp_role
            )
        return ae

    def start(self, sockets: Sequence[socket.socket] = ()) -> int:
        """Listens; returns the plain port, or the TLS port when that is the only one.

        `sockets`: those of `listening`, where other processes accept as well.

        Raises:
            OSError: an address is taken or not one of this machine.
            CertificateUnusable: TLS is configured with a file that can't be used.
        """
        allow_many_connections()
        handlers: Sequence[Any] = [
            (evt.EVT_CONN_OPEN, self._connected),
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_ESTABLISHED, self._established),
            (evt.EVT_RELEASED, self._ended, ["released"]),
            (evt.EVT_ABORTED, self._ended, ["aborted"]),
            (evt.EVT_C_STORE, self._store),
            *self._services.handlers(),
        ]
        self._services.start()
        tls = self._settings.tls
        context = server_context(tls, self._settings.peers) if tls is not None else None
        for number, (address, is_tls) in enumerate(addresses(self._settings)):
            shared = sockets[number] if sockets else None
            self._listen(address, handlers, context if is_tls else None, shared)
        return int(self._servers[0].server_address[1])

    def _listen(
        self,
        address: tuple[str, int],
        handlers: Sequence[Any],
        context: ssl.SSLContext | None,
        shared: socket.socket | None,
    ) -> None:
        server: Any = self._ae.make_server(
            address,
            ssl_context=context,
            evt_handlers=list(handlers),
            server_class=cast(Any, FastServer if shared is None else partial(SharedServer, shared)),
            request_handler=FastRequestHandler,
        )
        server.open_reception = self._open_reception
        server.host = self
        self._ae._servers.append(server)  # where its shutdown looks for it
        threading.Thread(target=server.serve_forever, name="dicom-server", daemon=True).start()
        self._servers.append(server)

    def stop(self) -> None:
        """Stops accepting, lets associations finish for eight seconds, aborts those that idle or take longer."""
        self._services.stop()
        for server in self._servers:
            server.shutdown()
        deadline = time.monotonic() + _DRAIN_S
        while time.monotonic() < deadline:
            waiting = self._waiting()
            if not waiting:
                break
            for association in waiting:
                quiet = association.quiet_since if isinstance(association, FastAssociation | Direct) else None
                if quiet is not None and time.monotonic() - quiet > _IDLE_BEFORE_ABORT_S and _is_idle(association):
                    self._abort(association)
            time.sleep(0.05)
        for association in self._waiting():
            self._abort(association)

    def _waiting(self) -> "list[Association | Direct]":
        with self._lock:
            return [*self._directs, *(a for a in self._ae.active_associations if a.is_acceptor)]

    def _abort(self, association: "Association | Direct") -> None:
        threading.Thread(target=association.abort, name="abort", daemon=True).start()

    def serve(self, connection: socket.socket, address: str, carry_on: Callable[[Carried], None]) -> None:
        """Of a plain connection; returns at once."""
        direct = Direct(connection, address, f"{self._prefix}-{next(self._numbers)}", self, carry_on)
        self._threads.run(direct.run)

    def admit(self, direct: Direct, accepted: Answer) -> bool:
        admitted = self._admit(accepted.called_ae, accepted.calling_ae, direct.address, None)
        if isinstance(admitted, Refusal) or self._take(direct, admitted) is not None:
            return False
        direct.calling_ae = accepted.calling_ae
        with self._lock:
            self._directs.add(direct)
        return True

    def established(self, direct: Direct) -> None:
        self._note(direct, "opened")

    def ended(self, direct: Direct, change: str) -> None:
        with self._lock:
            self._open.pop(direct, None)
            self._directs.discard(direct)
            self._publish()
        self._note(direct, change)

    def _connected(self, event: evt.Event) -> None:
        carried = getattr(event.assoc, "carried", None)
        self._ids[event.assoc] = carried.direct.identity if carried else f"{self._prefix}-{next(self._numbers)}"
        holder = event.assoc.dul.socket
        if holder is None or holder.socket is None:
            return
        if isinstance(holder.socket, ssl.SSLSocket) and (
            reason := shake_hands(holder.socket, timeout_s=_ACSE_TIMEOUT_S)
        ):
            _LOG.warning("TLS handshake failed", peer=event.assoc.requestor.address, reason=reason)
            holder.socket.close()

    def _requested(self, event: evt.Event) -> None:
        association = event.assoc
        request = association.requestor.primitive
        if request is None:
            return
        carried = getattr(association, "carried", None)
        if carried is not None and carried.rest is not None:
            self._carry(association, carried.direct)
            return
        holder = association.dul.socket
        admitted = self._admit(
            str(request.called_ae_title),
            str(request.calling_ae_title),
            str(association.requestor.address),
            peer_certificate(holder.socket if holder else None),
        )
        refused = admitted if isinstance(admitted, Refusal) else self._take(association, admitted)
        if refused is not None:
            _LOG.warning(
                "association refused", peer=association.requestor.address, reason=refused.name.lower().replace("_", " ")
            )
            association.acse.send_reject(*refused.value)
            association.kill()

    def _admit(self, called_ae: str, calling_ae: str, address: str, certificate: bytes | None) -> Peer | Refusal | None:
        return admit(
            called_ae=called_ae,
            calling_ae=calling_ae,
            address=address,
            own_ae=self._settings.ae_title,
            peers=self._settings.peers,
            certificate=certificate,
            certificate_of=self._certificates.get,
        )

    def _carry(self, association: Association, direct: Direct) -> None:
        """An association that was counted in and noted already."""
        with self._lock:
            self._open[association] = self._open.pop(direct, None)
            self._directs.discard(direct)
        self._noted.add(association)

    def _take(self, association: Association | Direct, peer: Peer | None) -> Refusal | None:
        """Counts the association in until its thread ends, or says why it is one too many."""
        with self._lock, self._limits.exclusive():
            self._open = {other: its for other, its in self._open.items() if other.is_alive()}
            if len(self._open) + self._limits.elsewhere() >= self._settings.max_associations:
                return Refusal.LOCAL_LIMIT
            if peer is not None:
                open_now = sum(its == peer for its in self._open.values()) + self._limits.elsewhere(peer)
                refused = self._limits.take(peer, open_now=open_now, now_s=time.monotonic())
                if refused is not None:
                    return refused
            self._open[association] = peer
            self._publish()
        return None

    def _publish(self) -> None:
        self._limits.publish(len(self._open), Counter(peer for peer in self._open.values() if peer is not None))

    def _established(self, event: evt.Event) -> None:
        if event.assoc not in self._noted:
            self._noted.add(event.assoc)
            self._note(event.assoc, "opened")

    def _ended(self, event: evt.Event, change: str) -> None:
        with self._lock:
            self._open.pop(event.assoc, None)
            self._publish()
        if event.assoc in self._noted:
            self._noted.discard(event.assoc)
            self._note(event.assoc, change)

    def _note(self, association: Association | Direct, change: str) -> None:
        calling_ae, peer, identity = self._who(association)
        entry = AssociationChanged(change, calling_ae, peer, identity, self._clock.now())
        try:
            self._journal.append(entry, sync=False)
        except OSError:  # the next instance will meet the same and be refused
            _LOG.error("association not journaled", association=identity, state=change)

    def _open_reception(
        self, association: Association | Direct, request: StoreRequest, transfer_syntax_uid: str
    ) -> Reception:
        return self._reception(
            association,
            request.sop_class.decode("latin-1"),
            request.sop_instance.decode("latin-1"),
            transfer_syntax_uid,
        )

    def reception(self, direct: Direct, request: StoreRequest, transfer_syntax_uid: str) -> Reception:
        return self._open_reception(direct, request, transfer_syntax_uid)

    def _reception(
        self, association: Association | Direct, sop_class: str, sop_instance: str, syntax: str
    ) -> Reception:
        calling_ae, peer, identity = self._who(association)
        request = Request(sop_class, sop_instance, syntax, calling_ae, peer, identity)
        return Reception(request, self._spool, self._journal, self._clock.now)

    def _store(self, event: evt.Event) -> int:
        """A request that the fast path left: its command set came in fragments."""
        request = event.request
        if not isinstance(request, C_STORE) or request.DataSet is None:
            return int(Status.CANNOT_UNDERSTAND)
        reception = self._reception(
            event.assoc,
            str(request.AffectedSOPClassUID),
            str(request.AffectedSOPInstanceUID),
            str(event.context.transfer_syntax),
        )
        with request.DataSet.getbuffer() as dataset:
            reception.write((dataset,))
        return int(reception.finish())

    def _who(self, association: Association | Direct) -> tuple[str, str, str]:
        """Calling AE title, address and id of the association."""
        if isinstance(association, Direct):
            return association.calling_ae, association.address, association.identity
        requestor = association.requestor
        return str(requestor.ae_title).strip()[:16], str(requestor.address), self._ids.get(association, "")


def addresses(settings: ScpSettings) -> list[tuple[tuple[str, int], bool]]:
    """Where the receiver listens, and whether it speaks TLS there."""
    tls = settings.tls
    plain = [((settings.host, settings.port), False)] if tls is None or not tls.only else []
    return plain + ([((settings.host, tls.port), True)] if tls is not None else [])


def listening(settings: ScpSettings) -> list[socket.socket]:
    """A socket for each address, for several processes to accept from.

    Raises:
        OSError: an address is taken or not one of this machine.
    """
    return [socket.create_server(address, backlog=FastServer.request_queue_size) for address, _ in addresses(settings)]


def _is_idle(association: Association | Direct) -> bool:
    if isinstance(association, Direct):
        return True
    return association.dimse.message is None and association.dimse.msg_queue.empty()
