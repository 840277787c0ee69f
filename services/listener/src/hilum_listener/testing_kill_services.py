"""For tests and `make prove-kill`: N-CREATE, N-SET and N-ACTION, with SIGKILL between every two steps of them.

What is answered with success must be in the index afterwards, once, and whoever asks again, having had an answer or
not, must hear what the standard says of a step, a notification or a transaction that is known.
"""

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa
from pydicom import Dataset
from pynetdicom import AE, build_context
from pynetdicom.association import Association

from hilum.adapters.dicom.requests import hold_reactor
from hilum.adapters.sql.database import database_path, open_database, reading
from hilum.adapters.sql.eventlog import SqlPublisher
from hilum.adapters.sql.schema import migrate
from hilum.adapters.sql.tables import availability_notices, commitment_requests, procedure_steps
from hilum.domain.identity import derive_uid
from hilum.ports.clock import SystemClock
from hilum_listener.handlers.assemble import Assembler
from hilum_listener.handlers.attributes import DUPLICATE_SOP_INSTANCE, PROCESSING_FAILURE
from hilum_listener.settings import AssembleSettings, Places
from hilum_listener.testing_forks import NOTICES, Forks, run_round
from hilum_listener.testing_scp import small_image
from hilum_listener.testing_services import AVAILABILITY, COMMITMENT, MPPS, ask, available, step_begins, step_ends

_ANSWER_S = 0.7
_SUCCESS, _ENDED = (0x0000, None), (PROCESSING_FAILURE, 0xA710)
_DUPLICATE = (DUPLICATE_SOP_INSTANCE, None)
Heard = tuple[int, int | None]
"""Status and Error ID."""


@dataclass
class ServicesProof:
    """What happened. `answered` counts requests that were answered with success, `repeated` those sent again."""

    rounds: int = 0
    killed: int = 0
    steps_of_a_round: int = 0
    answered: int = 0
    repeated: int = 0
    steps_hit: set[int] = field(default_factory=set)


def _create(association: Association, name: str) -> Dataset:
    return association.send_n_create(step_begins(name), MPPS, _step(name))[0]


def _set(association: Association, name: str) -> Dataset:
    return association.send_n_set(step_ends([small_image(name)]), MPPS, _step(name))[0]


def _notify(association: Association, name: str) -> Dataset:
    return association.send_n_create(available([small_image(name)]), AVAILABILITY, derive_uid("notice", name))[0]


def _ask(association: Association, name: str) -> Dataset:
    answered = Dataset()
    answered.Status = ask(association, name, [("1.2.840.10008.5.1.4.1.1.1", small_image(name).SOPInstanceUID)])
    return answered


def _step(name: str) -> str:
    return derive_uid("step", name)


REQUESTS: dict[Callable[[Association, str], Dataset], Heard] = {
    _create: _DUPLICATE,
    _set: _ENDED,
    _notify: _DUPLICATE,
    _ask: _SUCCESS,
}
"""Each request, in the order in which it is sent, with what one hears who sends it again."""


class _Modality:
    """Knows what it sent, and what was answered with success."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sent: set[tuple[str, str]] = set()
        self.answered: set[tuple[str, str]] = set()
        self.repeated = 0

    def send(self, port: int) -> None:
        """All requests of the newest name, until one has no answer."""
        self._send(port, list(REQUESTS))

    def repeat(self, port: int) -> None:
        """What was sent of the newest name, answered or not, and nothing else that could make up for it."""
        self._send(port, [request for request in REQUESTS if (request.__name__, self.names[-1]) in self.sent])

    def _send(self, port: int, requests: Sequence[Callable[[Association, str], Dataset]]) -> None:
        entity = AE(ae_title="MODALITY")
        entity.acse_timeout = entity.network_timeout = 20
        entity.dimse_timeout = _ANSWER_S  # pynetdicom waits so long for an answer on a connection that is gone
        contexts = [build_context(sop_class) for sop_class in (MPPS, AVAILABILITY, COMMITMENT)]
        association = entity.associate("127.0.0.1", port, contexts=contexts, ae_title="HILUM")
        for request in requests:
            if not association.is_established or not self._exchange(association, request, self.names[-1]):
                return
        association.release()

    def _exchange(self, association: Association, request: Callable[..., Dataset], name: str) -> bool:
        """Sends one and judges what is heard; False when nothing is."""
        one = (request.__name__, name)
        before = one in self.sent
        self.sent.add(one)
        hold_reactor(association)
        try:
            status = request(association, name)
        except (RuntimeError, ValueError, AttributeError):  # the connection is gone
            return False
        if "Status" not in status:
            return False
        heard = (int(status.Status), status.get("ErrorID"))
        again = REQUESTS[request]
        right = {again} if one in self.answered else {_SUCCESS, again} if before else {_SUCCESS}
        assert heard in right, f"{one[0]} was answered {heard}"
        self.repeated += before
        self.answered.add(one)
        return True


class _Index:
    def __init__(self, data: Path) -> None:
        self._data = data
        self._engine = open_database(database_path(data))
        migrate(self._engine)

    def check(self, answered: set[tuple[str, str]]) -> None:
        """Folds with a new assembler; what was answered is there, each once, and nothing that nobody sent."""
        clock, settings = SystemClock(), AssembleSettings(quiet_time=timedelta(days=1))
        Assembler(Places(self._data), settings, self._engine, SqlPublisher(clock), clock).step()
        steps, notices, requests = procedure_steps.c, availability_notices.c, commitment_requests.c
        with reading(self._engine) as connection:
            status = {row.step_uid: row.status for row in connection.execute(sa.select(steps.step_uid, steps.status))}
            listed = [str(named) for named in connection.execute(sa.select(notices.instances)).scalars()]
            asked = list(connection.execute(sa.select(requests.transaction_uid)).scalars())
        for request, name in answered:
            match request:
                case "_create":
                    assert _step(name) in status, "a step that was answered is not in the index"
                case "_set":
                    assert status[_step(name)] == "COMPLETED", "the end of a step is not in the index"
                case "_notify":
                    uid = small_image(name).SOPInstanceUID
                    assert sum(uid in one for one in listed) == 1, "a notification is not in the index once"
                case "_ask":
                    transaction = derive_uid("transaction", name)
                    assert asked.count(transaction) == 1, "a commitment request is not in the index once"


def prove_services(
    data: Path, rounds: int, *, stride: int = 1, report: Callable[[str], None] = lambda _line: None
) -> ServicesProof:
    """Raises AssertionError as soon as something answered is not there, is there twice, or is answered wrongly.

    `stride`: only each so many steps a kill comes before.
    """
    data.mkdir(parents=True, exist_ok=True)
    modality, proof = _Modality(), ServicesProof(rounds=rounds)
    index, forks = _Index(data), Forks()
    try:
        modality.names.append("first")
        proof.steps_of_a_round = run_round(forks, data, modality.send, 0, NOTICES)
        for number in range(rounds):
            kill_at = number * stride % proof.steps_of_a_round + 1
            modality.names.append(f"kill-{number}")
            died = run_round(forks, data, modality.send, kill_at, NOTICES) == -signal.SIGKILL
            proof.killed += died
            proof.steps_hit |= {kill_at} if died else set()
            index.check(modality.answered)
            run_round(forks, data, modality.repeat, 0, NOTICES)
            index.check(modality.answered)
            if number % 25 == 24:
                report(f"{number + 1} rounds, {proof.killed} kills, {len(modality.answered)} requests answered")
    finally:
        forks.close()
    proof.answered, proof.repeated = len(modality.answered), modality.repeated
    return proof
