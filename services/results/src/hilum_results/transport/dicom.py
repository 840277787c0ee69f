"""C-STORE to a PACS (PS3.4 B). One association serves everything that is due and is released when nothing is."""

import io
import socket

import pydicom
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.association import Association

from hilum.adapters.dicom.implementation import own_entity
from hilum.adapters.dicom.requests import hold_reactor
from hilum.runtime.config import DicomDestination
from hilum_results.handlers.verdict import Verdict, of_store_status, parked, retry

_SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


class DicomSender:
    """Storage SCU. Stored bytes are sent as they are where the peer takes Explicit VR Little Endian."""

    def __init__(self, destination: DicomDestination, *, calling_ae: str) -> None:
        self._destination = destination
        self._association: Association | None = None
        self._entity = own_entity(calling_ae)
        self._entity.add_requested_context(Comprehensive3DSRStorage, _SYNTAXES)
        timeout_s = destination.timeout_s
        self._entity.acse_timeout = timeout_s
        self._entity.dimse_timeout = timeout_s
        self._entity.network_timeout = timeout_s
        self._entity.connection_timeout = timeout_s

    def send(self, content: bytes, identity: str) -> Verdict:
        reused = self._association is not None and self._association.is_established
        association = self._association if reused else self._associate()
        if isinstance(association, Verdict):
            return association
        assert association is not None
        self._association = association
        if not any(c.abstract_syntax == Comprehensive3DSRStorage for c in association.accepted_contexts):
            self.rest()
            return parked("the peer does not accept Comprehensive 3D SR Storage")
        dataset = pydicom.dcmread(io.BytesIO(content))
        try:
            hold_reactor(association)
            answer = association.send_c_store(dataset)
        except (RuntimeError, ValueError, OSError) as error:  # pynetdicom: the association ended meanwhile
            self._abort()
            return retry(f"the association broke ({type(error).__name__})")
        if "Status" not in answer:
            self._abort()
            return retry("no answer to C-STORE: timed out, aborted or not understood")
        return of_store_status(int(answer.Status), str(answer.get("ErrorComment", "")))

    def rest(self) -> None:
        association, self._association = self._association, None
        if association is not None and association.is_established:
            association.release()

    def _associate(self) -> Association | Verdict:
        peer = self._destination
        try:
            association = self._entity.associate(
                peer.host,
                peer.port,
                ae_title=peer.ae_title,
                evt_handlers=[(evt.EVT_CONN_OPEN, _without_delay)],
            )
        except (OSError, RuntimeError) as error:
            return retry(f"no connection ({type(error).__name__})")
        if association.is_established:
            return association
        if association.is_rejected:
            return retry(f"the peer rejected the association for AE title {peer.ae_title}: {_why(association)}")
        if association.is_aborted and association.acceptor.primitive is not None:
            # PS3.8 9.3.3.2: the peer answered, and took none of the proposed contexts
            return parked("the peer does not accept Comprehensive 3D SR Storage")
        return retry("no association: the peer does not answer or refuses the connection")

    def _abort(self) -> None:
        association, self._association = self._association, None
        if association is not None and association.is_alive():
            association.abort()


def _why(association: Association) -> str:
    primitive = association.acceptor.primitive
    return str(getattr(primitive, "reason_str", "no reason given"))


def _without_delay(event: evt.Event) -> None:
    """Nagle's algorithm would hold the last fragment back for the peer's delayed acknowledgement (40 ms)."""
    transport = event.assoc.dul.socket
    connection = transport.socket if transport is not None else None
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
