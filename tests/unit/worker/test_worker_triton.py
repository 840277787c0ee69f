"""The client of model servers, against servers that say what no healthy one says."""

import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hilum.domain.errors import Busy, Reject, Retry
from hilum.domain.inference import Lane, Task, TaskKind
from hilum.runtime.logs import Log
from hilum.testing.external import free_port
from hilum_medmo.serving.contract import Asked, Priority, Said, Status, answered
from hilum_medmo.serving.contract import Task as Kind
from hilum_medmo.serving.tensors import encode_said
from hilum_medmo.testing.scripted import answer
from hilum_medmo.testing.waiting import LOCATE as LOCATED
from hilum_medmo.testing.waiting import REPORT as REPORTED
from hilum_medmo.testing.waiting import WAITING_IDENTITY
from hilum_worker.testing import Line, ScriptedServer
from hilum_worker.triton.model import TritonModel, describe
from hilum_worker.triton.replica import Patience, Replica

IMAGE = np.zeros((32, 48, 3), np.uint8)
LOCATE, REPORT = Task(TaskKind.LOCATE), Task(TaskKind.REPORT)
QUICK = Patience(answer_s=5.0, silence_s=0.5)
TEXTS = {Kind.LOCATE: LOCATED, Kind.REPORT: REPORTED, Kind.QUESTION: "Yes."}


class Now:
    """Monotonic seconds that a test sets."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def good(asked: Asked) -> Iterator[Line]:
    yield Said(Status.WAITING)
    if asked.task is Kind.DESCRIBE:
        identity = WAITING_IDENTITY
        yield Said(Status.DESCRIBED, model=(identity.name, identity.version, identity.digest), description=identity)
    else:
        yield answered(asked.task, answer(TEXTS[asked.task], 0.99), WAITING_IDENTITY, queue_s=0.0)


def says(*lines: Line) -> Callable[[Asked], Iterator[Line]]:
    return lambda _asked: iter((Said(Status.WAITING), *lines))


def at_once(*lines: Line) -> Callable[[Asked], Iterator[Line]]:
    return lambda _asked: iter(lines)


def model(*servers: ScriptedServer | str, now: Callable[[], float] | None = None, **options: Any) -> TritonModel:
    addresses = [each if isinstance(each, str) else each.address for each in servers]
    replicas = [Replica(address, QUICK, now=now or Now()) for address in addresses]
    return TritonModel(WAITING_IDENTITY, replicas, QUICK, Log("hilum.worker"), first=0, **options)


def nobody() -> str:
    return f"127.0.0.1:{free_port()}"


def test_the_request_carries_prompt_lane_deadline_and_the_weights_that_are_to_answer() -> None:
    with ScriptedServer(good) as server:
        said = model(server).answer(LOCATE, IMAGE, lane=Lane.STAT)
    [asked] = server.asked
    assert (asked.task, asked.priority, asked.deadline_s) == (Kind.LOCATE, Priority.STAT, 5.0)
    assert (asked.request.prompt, asked.digest) == ("locate", WAITING_IDENTITY.digest)
    assert [image.shape for image in asked.request.images] == [IMAGE.shape]
    assert said.text == LOCATED
    assert [(each.label, each.box) for each in said.findings] == [("Nodule", (100, 200, 300, 400))]


def test_servers_take_turns() -> None:
    with ScriptedServer(good) as one, ScriptedServer(good) as other:
        asking = model(one, other)
        for _ in range(4):
            asking.answer(REPORT, IMAGE)
    assert (len(one.asked), len(other.asked)) == (2, 2)


@pytest.mark.parametrize("overload", [Said(Status.OVERLOADED, "too many requests wait"), "no healthy model"])
def test_a_server_that_can_not_take_it_is_passed_over_and_when_all_can_not_the_job_goes_back(overload: Line) -> None:
    with ScriptedServer(at_once(overload)) as full, ScriptedServer(good) as free:
        assert model(full, free).answer(REPORT, IMAGE).text == REPORTED
        with pytest.raises(Busy, match=r"no model server answers: 127.0.0.1:\d+: "):
            model(full).answer(REPORT, IMAGE)


def test_nobody_at_the_address_is_busy_and_not_an_attempt() -> None:
    with pytest.raises(Busy, match="can't be reached"):
        model(nobody(), nobody()).answer(REPORT, IMAGE)


def test_a_port_where_nobody_answers_counts_as_gone_after_the_silence() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        with pytest.raises(Busy, match=r"doesn't answer within 0.5 s|can't be reached"):
            model(f"127.0.0.1:{deaf.getsockname()[1]}").answer(REPORT, IMAGE)


def test_a_server_with_other_weights_is_passed_over() -> None:
    other = Said(Status.OTHER_MODEL, "these are other weights", ("MedMO-Other", "1", "f" * 64))
    with ScriptedServer(at_once(other)) as server, pytest.raises(Busy, match=r"has other weights \(f{12}\) than"):
        model(server).answer(REPORT, IMAGE)


def test_an_answer_of_other_weights_is_not_taken() -> None:
    foreign = replace(WAITING_IDENTITY, digest="f" * 64)
    script = says(answered(Kind.REPORT, answer(REPORTED), foreign, queue_s=0.0))
    with ScriptedServer(script) as server, pytest.raises(Retry, match="answered with other weights"):
        model(server).answer(REPORT, IMAGE)


def located(text: str = LOCATED, **changes: Any) -> Said:
    return replace(answered(Kind.LOCATE, answer(text, 0.99), WAITING_IDENTITY, queue_s=0.0), **changes)


def broken(**tensors: Any) -> dict[str, Any]:
    return {**encode_said(located()), **tensors}


NONSENSE: dict[str, tuple[Line, str]] = {
    "a text outside the grammar": (located("Nodule <box>[[1, 2"), "the model's answer could not be read: "),
    "boxes that its text doesn't have": (located(boxes=()), "boxes that are not those of its text"),
    "probabilities that are none": (broken(TOKEN_PROBABILITIES=np.full(len(LOCATED) + 1, 7.0)), "outside the contract"),
    "tensors of another type": (broken(BOXES=np.zeros((1, 4))), "outside the contract"),
    "no status": ({"TEXT": encode_said(located())["TEXT"]}, "outside the contract"),
    "a fault": (Said(Status.FAILED, "a fault in the model (RuntimeError)"), "failed: a fault in the model"),
    "a deadline": (Said(Status.EXPIRED), "gave no answer within 5 s"),
    "an end without an answer": (Said(Status.CANCELLED), "gave the request up"),
    "a description instead": (
        Said(Status.DESCRIBED, model=("a", "1", WAITING_IDENTITY.digest), description=WAITING_IDENTITY),
        "answered without an answer",
    ),
    "an error of Triton's in the middle": ("Stub process is not healthy", "no model that works"),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_is_an_attempt_unless_another_server_answers(what: str) -> None:
    line, reason = NONSENSE[what]
    with ScriptedServer(says(line)) as bad, ScriptedServer(good) as sane:
        assert model(bad, sane).answer(LOCATE, IMAGE).text == LOCATED
        with pytest.raises(Retry, match=reason) as caught:
            model(bad).answer(LOCATE, IMAGE)
        assert caught.value.reason.startswith(f"model server {bad.address}: ")
    assert len(bad.asked) == 2


def test_at_most_three_servers_are_tried_with_one_image() -> None:
    servers = [ScriptedServer(says(located("nonsense"))) for _ in range(5)]
    for server in servers:
        server.__enter__()
    with pytest.raises(Retry):
        model(*servers).answer(LOCATE, IMAGE)
    assert [len(server.asked) for server in servers] == [1, 1, 1, 0, 0]
    for server in servers:
        server.__exit__()


def test_a_stream_that_ends_without_an_answer_is_an_attempt_once_the_request_was_taken() -> None:
    with ScriptedServer(says()) as server, pytest.raises(Retry, match="ended the stream without an answer"):
        model(server).answer(REPORT, IMAGE)
    with ScriptedServer(at_once()) as server, pytest.raises(Busy, match="ended the stream without an answer"):
        model(server).answer(REPORT, IMAGE)


def test_a_request_that_can_never_succeed_is_rejected_and_no_other_server_is_asked() -> None:
    refused = says(Said(Status.REFUSED, "prompt\x1b too long"))
    expected = pytest.raises(Reject, match="the model can't be asked: prompt too long")
    with ScriptedServer(refused) as one, ScriptedServer(good) as other, expected:
        model(one, other).answer(REPORT, IMAGE)
    assert other.asked == []


def test_an_unfinished_answer_is_an_attempt() -> None:
    unfinished = answered(Kind.REPORT, answer("There is", finish="length"), WAITING_IDENTITY, queue_s=0.0)
    with ScriptedServer(says(unfinished)) as server, pytest.raises(Retry, match="not finished after"):
        model(server).answer(REPORT, IMAGE)


def test_a_server_that_failed_rests_longer_each_time_and_then_is_asked_again() -> None:
    now = Now()
    lines: list[Line] = [Said(Status.OVERLOADED)]
    with ScriptedServer(lambda asked: iter(lines) if lines else good(asked)) as server:
        asking = model(server, now=now)
        asking.ready()
        for rest_s in (0.5, 1.0, 2.0, 4.0, 5.0, 5.0):
            with pytest.raises(Busy, match="is overloaded"):
                asking.answer(REPORT, IMAGE)
            count = len(server.asked)
            now.seconds += rest_s - 0.01
            with pytest.raises(Busy, match="is overloaded"):
                asking.ready()
            with pytest.raises(Busy):
                asking.answer(REPORT, IMAGE)
            assert len(server.asked) == count, "a server that rests was asked"
            now.seconds += 0.02
            asking.ready()
        lines.clear()
        assert asking.answer(REPORT, IMAGE).text == REPORTED
        lines.append(Said(Status.OVERLOADED))
        with pytest.raises(Busy):
            asking.answer(REPORT, IMAGE)
        now.seconds += 0.51
        asking.ready()  # the first failure in a row again


def test_a_worker_that_stops_gives_the_answer_up() -> None:
    with ScriptedServer(says()) as server, pytest.raises(Busy, match="the worker is stopping"):
        model(server, should_stop=lambda: True).answer(REPORT, IMAGE)


def test_each_change_of_a_server_is_logged_once_without_prompt_or_answer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lines: list[Line] = [Said(Status.OVERLOADED, "too many requests wait")]
    now = Now()
    with ScriptedServer(lambda asked: iter(lines) if lines else good(asked)) as server:
        asking = model(server, now=now)
        for _ in range(3):
            with pytest.raises(Busy):
                asking.answer(Task(TaskKind.QUESTION, "Is Sekret^Name well?"), IMAGE)
            now.seconds += 10
        lines.clear()
        for _ in range(2):
            asking.answer(Task(TaskKind.QUESTION, "Is Sekret^Name well?"), IMAGE)
    events = [(record.getMessage(), record.__dict__["keys"]) for record in caplog.records]
    assert [event for event, _ in events] == ["model server gives no answer", "model server answers again"]
    assert "Sekret^Name" not in str(events)
    assert events[0][1]["peer"] == server.address


def test_who_the_model_is_comes_from_the_first_server_with_these_weights() -> None:
    other = replace(WAITING_IDENTITY, digest="f" * 64)
    foreign = at_once(Said(Status.DESCRIBED, model=("a", "1", "f" * 64), description=other))
    log, digest = Log("hilum.worker"), WAITING_IDENTITY.digest
    with ScriptedServer(foreign) as wrong, ScriptedServer(good) as right:
        replicas = [Replica(address, QUICK) for address in (nobody(), wrong.address, right.address)]
        assert describe(replicas, digest, should_stop=lambda: False, log=log) == WAITING_IDENTITY
        assert describe(replicas[:2], digest, should_stop=lambda: False, log=log) is None
