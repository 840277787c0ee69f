"""What fast.py and accept.py override in pynetdicom is still there, and the bytes they write are the standard's."""

import inspect
import re
from collections.abc import Iterator
from io import BytesIO
from random import Random

import pynetdicom
import pytest
from pynetdicom import acse, association, dul, fsm, presentation, transport
from pynetdicom.dimse_messages import C_STORE_RQ, C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF as PDataTf

from hilum_listener.transport import accept, fast
from hilum_listener.transport.pdata import DataSetWalk, Look, StoreRequest, Walked, store_request

CT = "1.2.840.10008.5.1.4.1.1.2"


def test_the_pynetdicom_in_use_is_the_one_that_was_read() -> None:
    assert pynetdicom.__version__ == fast.PYNETDICOM


@pytest.mark.parametrize(
    ("thing", "relied_on"),
    [
        (dul.DULServiceProvider.run_reactor, "time.sleep(self._run_loop_delay) if self._kill_thread: break"),
        (dul.DULServiceProvider.run_reactor, 'if self.artim_timer.expired: self.event_queue.put("Evt18")'),
        (dul.DULServiceProvider.run_reactor, "if self._process_recv_primitive():"),
        (dul.DULServiceProvider.run_reactor, "elif self._is_transport_event():"),
        (dul.DULServiceProvider.run_reactor, "self._idle_timer.restart()"),
        (dul.DULServiceProvider.send_pdu, "self.to_provider_queue.put(primitive)"),
        (dul.DULServiceProvider.kill_dul, "self._kill_thread = True"),
        (dul.DULServiceProvider._decode_pdu, "return pdu, event"),
        (dul.DULServiceProvider._send, "self.socket.send(pdu.encode())"),
        (fsm.AE_7, "dul._send(A_ASSOCIATE_AC(primitive))"),
        (presentation.negotiate_unrestricted, "ab_syntax.is_private or ab_syntax in storage_uids"),
        (presentation.negotiate_unrestricted, "or not hasattr(SOP_CLASS_MODULE, ab_syntax.keyword)"),
        (presentation.negotiate_unrestricted, "cx.transfer_syntax = [rcx.transfer_syntax[0]]"),
        (dul.DULServiceProvider._read_pdu_data, "self._recv_pdu.put(pdu)"),
        (association.Association._run_reactor, "self._reactor_checkpoint.wait() self._is_paused = False"),
        (association.Association._run_reactor, "self.dimse.get_msg(block=False)"),
        (association.Association.run_reactor, "self._run_reactor()"),
        (association.Association.kill, "while self.dul.is_alive() and not self.dul.stop_dul():"),
        (acse.ACSE._negotiate_as_acceptor, "self.assoc._accepted_cx = {"),
        (transport.RequestHandler.handle, "assoc = self._create_association()"),
        (transport.RequestHandler._create_association, "deepcopy(self.server.contexts)"),
    ],
)
def test_the_internals_that_are_overridden_have_not_moved(thing: object, relied_on: str) -> None:
    text = re.sub(r"#.*", "", inspect.getsource(thing))  # type: ignore[arg-type]
    assert relied_on in re.sub(r"\s+", " ", text)


def test_the_states_and_events_that_are_relied_on_mean_what_they_meant() -> None:
    assert fsm.TRANSITION_TABLE["Evt17", "Sta6"] == "AA-4"
    assert fsm.TRANSITION_TABLE["Evt19", "Sta6"] == "AA-8"
    assert fsm.TRANSITION_TABLE["Evt18", "Sta2"] == "AA-2"
    assert fsm.TRANSITION_TABLE["Evt12", "Sta6"] == "AR-2"


def test_every_override_overrides_something() -> None:
    pairs = [
        (fast.FastAssociation, association.Association, ["_run_reactor"]),
        (
            fast.FastDul,
            dul.DULServiceProvider,
            ["run_reactor", "send_pdu", "_send", "kill_dul", "stop_dul", "_is_transport_event"],
        ),
        (accept.FastRequestHandler, transport.RequestHandler, ["_create_association"]),
        (
            accept.FastServer,
            transport.ThreadedAssociationServer,
            ["get_request", "process_request", "process_request_thread", "service_actions", "handle_error"],
        ),
    ]
    for ours, theirs, names in pairs:
        for name in names:
            assert callable(getattr(theirs, name)), name
            assert inspect.signature(getattr(ours, name)).parameters.keys() == (
                inspect.signature(getattr(theirs, name)).parameters.keys()
            )


def request(dataset: bytes, *, max_pdu: int = 4096, message_id: int = 7) -> list[bytes]:
    """The PDUs that pynetdicom makes of a C-STORE request."""
    primitive = C_STORE()
    primitive.MessageID = message_id
    primitive.AffectedSOPClassUID = CT
    primitive.AffectedSOPInstanceUID = "1.2.3"
    primitive.Priority = 2
    primitive.DataSet = BytesIO(dataset)
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    return [PDataTf(part).encode() for part in message.encode_msg(3, max_pdu)]


def cut(content: bytes, dice: Random) -> Iterator[bytes]:
    at = 0
    while at < len(content):
        size = dice.choice([1, 2, 5, 6, 7, 11, 12, 13, 100, 5000])
        yield content[at : at + size]
        at += size


@pytest.mark.parametrize("seed", range(20))
def test_a_data_set_is_found_however_its_bytes_are_cut(seed: int) -> None:
    dice = Random(seed)
    dataset = dice.randbytes(dice.choice([1, 2, 4000, 4090, 50_000]))
    wire = b"".join(request(dataset, max_pdu=dice.choice([200, 4096, 1 << 16])))
    view = memoryview(wire)
    found = store_request(view, 0, len(wire))
    assert isinstance(found, tuple)
    assert found[0] == StoreRequest(3, 7, CT.encode(), b"1.2.3", has_data_set=True)
    assert all(store_request(view, 0, end) is Look.MORE for end in range(found[1]))
    walk, taken, left, why = DataSetWalk(3, 0), b"", b"", Walked.MORE
    for piece in cut(wire[found[1] :], dice):
        chunk = memoryview(left + piece)
        why, stop = walk.walk(chunk, 0, len(chunk))
        taken += b"".join(walk.pieces)
        left = bytes(chunk[stop:])
    assert (why, taken, left) == (Walked.WHOLE, dataset, b"")


def test_other_requests_and_incomplete_ones_are_left_to_the_ordinary_reader() -> None:
    (command, *_) = request(b"x")
    view = bytearray(command)
    for at, value in ((11, 1), (11, 0), (11, 2)):  # not the last fragment, no command
        changed = bytearray(view)
        changed[at] = value
        assert store_request(memoryview(changed), 0, len(changed)) is Look.OTHER
    echo = command.replace(b"\0\0\0\1\2\0\0\0\1\0", b"\0\0\0\1\2\0\0\0\x30\0")
    assert echo != command
    assert store_request(memoryview(echo), 0, len(echo)) is Look.OTHER
    no_instance = command.replace(b"\0\0\0\x10\6\0\0\0", b"\0\0\1\x10\6\0\0\0")
    assert store_request(memoryview(no_instance), 0, len(no_instance)) is Look.OTHER


@pytest.mark.parametrize(
    "pdu",
    [
        b"\4\0\0\0\0\6\0\0\0\2\5\0",  # another context
        b"\4\0\0\0\0\6\0\0\0\2\3\3",  # a command inside the data set
        b"\4\0\0\0\0\6\0\0\0\1\3\0",  # shorter than its own header
        b"\4\0\0\0\0\6\0\0\1\2\3\0",  # longer than its PDU
        b"\4\0\0\0\0\0\0\0\0\2\3\0",  # an empty PDU
        b"\4\0\0\0\0\7\0\0\0\2\3\2\0",  # more behind the last fragment
    ],
)
def test_fragments_that_no_clause_allows_are_told(pdu: bytes) -> None:
    assert DataSetWalk(3, 0).walk(memoryview(pdu), 0, len(pdu))[0] is Walked.BROKEN


def test_an_abort_between_fragments_is_left_to_the_ordinary_reader() -> None:
    assert DataSetWalk(3, 0).walk(memoryview(b"\7\0\0\0\0\4\0\0\0\0"), 0, 10) == (Walked.OTHER_PDU, 0)


@pytest.mark.parametrize("status", [0x0000, 0xA700, 0xA900, 0xC000])
def test_the_answer_is_what_pynetdicom_would_have_sent(status: int) -> None:
    answer = StoreRequest(3, 7, CT.encode(), b"1.2.3", has_data_set=True).response(status)
    primitive = C_STORE()
    primitive.MessageIDBeingRespondedTo = 7
    primitive.AffectedSOPClassUID = CT
    primitive.AffectedSOPInstanceUID = "1.2.3"
    primitive.Status = status
    message = C_STORE_RSP()
    message.primitive_to_message(primitive)
    (part,) = message.encode_msg(3, 16384)
    assert answer == PDataTf(part).encode()
