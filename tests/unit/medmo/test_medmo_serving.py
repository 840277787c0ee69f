"""The model server's contract, and the queue in front of its engine."""

import math
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hilum_medmo import Generation, ModelIdentity, Request, RequestError, Timings
from hilum_medmo.serving.contract import Asked, Box, ContractError, Priority, Said, Status, Task, answered
from hilum_medmo.serving.queue import Queue
from hilum_medmo.serving.tensors import INPUTS, OUTPUTS, decode_request, decode_said, encode_request, encode_said
from hilum_medmo.testing.scripted import SCRIPTED_IDENTITY, ScriptedMedMO, answer
from hilum_medmo.testing.waiting import WAITING_IDENTITY, WaitingMedMO

ROOT = Path(__file__).parents[3]
IMAGE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
FOUND = answer("Nodule <box>[[10, 20, 30, 40], [50, 60, 70, 80]]</box>", 0.9)


def request(prompt: str = "find", *images: NDArray[np.uint8]) -> Request:
    return Request(images, prompt, 64)


def test_config_pbtxt_declares_the_tensors_of_the_contract() -> None:
    text = (ROOT / "triton_models" / "medmo" / "config.pbtxt").read_text()
    kinds = {"BYTES": "STRING"}
    for part, declared in (("input", INPUTS), ("output", OUTPUTS)):
        block = re.search(rf"(?ms)^{part} \[(.*?)^\]", text)
        assert block is not None
        found = re.findall(r'name: "(\w+)", data_type: TYPE_(\w+), dims: \[ ([-\d, ]+) \]', block[1])
        expected = [
            (name, kinds.get(kind, kind), ", ".join(map(str, shape))) for name, (kind, shape) in declared.items()
        ]
        assert found == expected


def test_the_readme_names_every_tensor_and_status() -> None:
    text = (ROOT / "triton_models" / "medmo" / "README.md").read_text()
    for word in [*INPUTS, *OUTPUTS, *Status, *Task, *Priority]:
        assert f"`{word}`" in text, word


@given(
    prompt=st.text(st.characters(codec="utf-8"), max_size=40),
    system=st.none() | st.text(st.characters(codec="utf-8"), max_size=10),
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=3),
    task=st.sampled_from([Task.LOCATE, Task.REPORT, Task.QUESTION]),
    priority=st.sampled_from(list(Priority)),
    deadline_s=st.floats(0.001, 900_000),
)
def test_a_request_comes_out_as_it_went_in(
    prompt: str, system: str | None, sizes: list[tuple[int, int]], task: Task, priority: Priority, deadline_s: float
) -> None:
    images = tuple(np.full((rows, columns, 3), n, np.uint8) for n, (rows, columns) in enumerate(sizes))
    asked = Asked(task, Request(images, prompt, 7, system), priority, deadline_s, "ab" * 32)
    back = decode_request(encode_request(asked))
    assert (back.task, back.priority, back.deadline_s, back.digest) == (task, priority, deadline_s, "ab" * 32)
    assert (back.request.prompt, back.request.system, back.request.max_new_tokens) == (prompt, system, 7)
    assert len(back.request.images) == len(images)
    assert all((one == other).all() for one, other in zip(back.request.images, images, strict=True))


def test_a_grey_image_is_sent_once_and_a_coloured_one_whole() -> None:
    grey = np.repeat(np.arange(20, dtype=np.uint8).reshape(4, 5, 1), 3, axis=2)
    for images, size in (((grey,), 20), ((IMAGE,), 60), ((grey, IMAGE), 80)):
        tensors = encode_request(Asked(Task.LOCATE, Request(images, "find")))
        assert tensors["IMAGES"].shape == (size,)
        back = decode_request(tensors).request.images
        assert all((one == other).all() for one, other in zip(back, images, strict=True))
    almost = grey.copy()
    almost[3, 4, 2] += 1
    assert (
        decode_request(encode_request(Asked(Task.LOCATE, Request((almost,), "find")))).request.images[0] == almost
    ).all()


def test_an_answer_comes_out_as_it_went_in_to_the_last_bit_of_its_probabilities() -> None:
    generation = replace(FOUND, timings=Timings(0.1, 0.2, 0.3, 0.15))
    said = answered(Task.LOCATE, generation, WAITING_IDENTITY, queue_s=0.05)
    assert decode_said(encode_said(said)) == said
    assert [(box.label, box.box) for box in said.boxes] == [("Nodule", (10, 20, 30, 40)), ("Nodule", (50, 60, 70, 80))]
    assert said.model == ("MedMO-Waiting", "1", WAITING_IDENTITY.digest)


def test_a_description_comes_out_as_it_went_in() -> None:
    said = Said(Status.DESCRIBED, model=("a", "b", "c"), description=WAITING_IDENTITY)
    assert decode_said(encode_said(said)) == said


def test_an_answer_outside_the_grammar_goes_out_with_its_reason_and_no_box() -> None:
    said = answered(Task.LOCATE, answer("Nodule <box>[[1"), WAITING_IDENTITY, queue_s=0.0)
    assert said.boxes == ()
    assert re.fullmatch(r"[\w ]+ at character \d+", said.reason)


def changed(**tensors: Any) -> dict[str, NDArray[Any]]:
    said = encode_said(answered(Task.LOCATE, FOUND, WAITING_IDENTITY, queue_s=0.0))
    for name, value in tensors.items():
        if value is None:
            del said[name]
        else:
            said[name] = value
    return said


def texts(*values: bytes) -> NDArray[np.object_]:
    array = np.empty(len(values), np.object_)
    array[:] = values
    return array


COUNT = len(FOUND.tokens)
NONSENSE: dict[str, dict[str, Any]] = {
    "a status that nobody knows": {"STATUS": texts(b"maybe")},
    "no text": {"TEXT": None},
    "text that is no UTF-8": {"TEXT": texts(b"\xff\xfe")},
    "a text that its tokens don't make": {"TEXT": texts(b"Fracture")},
    "an end that nobody knows": {"FINISH": texts(b"tired")},
    "probabilities above one": {"TOKEN_PROBABILITIES": np.full(COUNT, 1.5)},
    "probabilities that are no numbers": {"TOKEN_PROBABILITIES": np.full(COUNT, math.nan)},
    "fewer probabilities than tokens": {"TOKEN_PROBABILITIES": np.full(COUNT - 1, 0.5)},
    "probabilities of another type": {"TOKEN_PROBABILITIES": np.full(COUNT, 0.5, np.float32)},
    "spans outside the text": {"TOKEN_SPANS": np.full((COUNT, 2), 9000, np.int32)},
    "a box without a confidence": {"BOX_CONFIDENCES": np.zeros(0)},
    "boxes of three numbers": {"BOXES": np.zeros((2, 3), np.int32)},
    "time that runs backwards": {"TIMINGS_S": np.full(5, -1.0)},
    "no model": {"MODEL": texts(b"a", b"b")},
}


@pytest.mark.parametrize("what", NONSENSE)
def test_an_answer_that_is_nonsense_is_refused(what: str) -> None:
    with pytest.raises(ContractError):
        decode_said(changed(**NONSENSE[what]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"TASK": texts(b"dream")},
        {"PROMPT": None},
        {"PRIORITY": texts(b"now")},
        {"DEADLINE_S": np.array([math.nan])},
        {"DEADLINE_S": np.array([0.0])},
        {"IMAGES": np.zeros(7, np.uint8)},
        {"IMAGES": np.zeros((4, 5, 3), np.uint8)},
        {"IMAGE_SIZES": np.array([[-4, -5, 3]], np.int32)},
        {"IMAGE_SIZES": np.array([[4, 5, 3], [0, 9, 1]], np.int32)},
        {"IMAGE_SIZES": np.array([[6, 5, 2]], np.int32)},
        {"MAX_NEW_TOKENS": np.zeros(0, np.int32)},
    ],
)
def test_a_request_outside_the_contract_is_refused(wrong: dict[str, Any]) -> None:
    tensors = encode_request(Asked(Task.LOCATE, request("find", IMAGE)))
    for name, value in wrong.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    with pytest.raises(ContractError):
        decode_request(tensors)


class Heard:
    """A stream that remembers."""

    def __init__(self) -> None:
        self.said: list[Said] = []
        self.cancelled = False
        self.over = threading.Event()
        self.beats = threading.Event()

    def send(self, said: Said) -> None:
        assert not self.over.is_set(), "a message after the last"
        self.said.append(said)
        if len(self.said) > 2:
            self.beats.set()
        if said.status.ends:
            self.over.set()

    def is_cancelled(self) -> bool:
        return self.cancelled

    def end(self) -> Said:
        assert self.over.wait(10), "no message ended the request"
        return self.said[-1]


class Gated:
    """A MedMO that answers when a test lets it, and remembers in which order it was asked."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.asked: list[str] = []
        self.busy = threading.Event()

    @property
    def identity(self) -> ModelIdentity:
        return SCRIPTED_IDENTITY

    def generate(self, asked: Request, *, should_stop: Callable[[], bool] | None = None) -> Generation:
        self.asked.append(asked.prompt)
        self.busy.set()
        while not self.open.wait(0.01):
            if should_stop is not None and should_stop():
                return answer("", finish="cancelled")
        return answer("done")


def submit(queue: Queue, prompt: str, **values: Any) -> Heard:
    heard = Heard()
    queue.submit(Asked(Task.QUESTION, request(prompt), **values), heard)
    return heard


def test_a_stat_request_passes_those_that_wait_and_equals_keep_their_order() -> None:
    medmo = Gated()
    queue = Queue(medmo, beat_s=0.02)
    first = submit(queue, "first")
    assert medmo.busy.wait(10)
    waiting = [submit(queue, f"{p} {n}", priority=p) for n in (1, 2) for p in (Priority.ROUTINE, Priority.STAT)]
    waiting.append(submit(queue, "urgent", priority=Priority.URGENT))
    medmo.open.set()
    for heard in (first, *waiting):
        assert heard.end().status is Status.ANSWERED
    assert medmo.asked == ["first", "stat 1", "stat 2", "urgent", "routine 1", "routine 2"]
    queue.close()


def test_each_request_gives_signs_of_life_while_it_waits_and_runs() -> None:
    medmo = Gated()
    queue = Queue(medmo, beat_s=0.01)
    running, waiting = submit(queue, "one"), submit(queue, "two")
    assert running.beats.wait(10)
    assert waiting.beats.wait(10)
    medmo.open.set()
    assert (running.end().status, waiting.end().status) == (Status.ANSWERED, Status.ANSWERED)
    assert {said.status for said in waiting.said[:-1]} >= {Status.WAITING}
    assert Status.RUNNING in {said.status for said in running.said}
    queue.close()


def test_more_than_may_wait_are_turned_away_at_once() -> None:
    medmo = Gated()
    queue = Queue(medmo, most_waiting=1)
    running = submit(queue, "one")
    assert medmo.busy.wait(10)
    waiting, turned_away = submit(queue, "two"), submit(queue, "three")
    assert turned_away.end().status is Status.OVERLOADED
    medmo.open.set()
    assert {running.end().status, waiting.end().status} == {Status.ANSWERED}
    assert medmo.asked == ["one", "two"]
    queue.close()


def test_what_nobody_waits_for_any_more_is_never_asked_and_what_runs_stops() -> None:
    medmo = Gated()
    queue = Queue(medmo, beat_s=0.01)
    running = submit(queue, "one")
    assert medmo.busy.wait(10)
    waiting = submit(queue, "two")
    waiting.cancelled = running.cancelled = True
    assert {running.end().status, waiting.end().status} == {Status.CANCELLED}
    assert medmo.asked == ["one"]
    queue.close()


def test_a_deadline_ends_what_runs_as_expired_and_what_waits_as_overload() -> None:
    medmo = Gated()
    queue = Queue(medmo, beat_s=0.01)
    running = submit(queue, "one")
    assert medmo.busy.wait(10)
    waiting = submit(queue, "two", deadline_s=0.05)
    assert waiting.end().status is Status.OVERLOADED
    running.cancelled = True
    running.end()
    medmo.busy.clear()
    late = submit(queue, "three", deadline_s=0.05)
    assert late.end().status is Status.EXPIRED
    assert medmo.asked == ["one", "three"]
    queue.close()


class Delicate(Heard):
    """As Triton's response sender: to ask it while its last message goes out, or after, would be the server's end."""

    def __init__(self) -> None:
        super().__init__()
        self.in_use = threading.Lock()
        self.asked = threading.Event()
        self.misused: list[str] = []

    def send(self, said: Said) -> None:
        if not self.in_use.acquire(blocking=False):
            self.misused.append(f"{said.status} was sent while it was asked")
            return super().send(said)
        try:
            return super().send(said)
        finally:
            self.in_use.release()

    def is_cancelled(self) -> bool:
        if self.over.is_set():
            self.misused.append("it was asked after its last message")
        with self.in_use:
            self.asked.set()
            self.over.wait(
                0.2
            )  # long enough for the engine to end the request meanwhile, if nothing keeps it from that
        return False


def test_whether_anybody_listens_is_never_asked_while_or_after_the_last_message_goes_out() -> None:
    medmo = Gated()
    queue = Queue(medmo, beat_s=0.001)
    heard = Delicate()
    queue.submit(Asked(Task.QUESTION, request("one")), heard)
    assert heard.asked.wait(10)
    medmo.open.set()
    assert heard.end().status is Status.ANSWERED
    queue.close()
    assert heard.misused == []


def test_other_weights_are_not_asked_and_a_description_is_given_at_once() -> None:
    medmo = Gated()
    queue = Queue(medmo)
    other = submit(queue, "one", digest="f" * 64)
    assert (other.end().status, other.end().model[2]) == (Status.OTHER_MODEL, SCRIPTED_IDENTITY.digest)
    described = Heard()
    queue.submit(Asked(Task.DESCRIBE, request()), described)
    assert described.end().description == SCRIPTED_IDENTITY
    assert medmo.asked == []
    queue.close()


def test_a_fault_ends_its_request_and_the_next_is_answered() -> None:
    queue = Queue(ScriptedMedMO({"bad": RuntimeError("Sekret"), "long": RequestError("too long"), "good": "Yes."}))
    failed, refused = submit(queue, "bad").end(), submit(queue, "long").end()
    assert (failed.status, failed.reason) == (Status.FAILED, "a fault in the model (RuntimeError)")
    assert (refused.status, refused.reason) == (Status.REFUSED, "too long")
    assert submit(queue, "good").end().status is Status.ANSWERED
    queue.close()


def test_closing_ends_what_runs_and_what_waits() -> None:
    medmo = Gated()
    queue = Queue(medmo)
    running = submit(queue, "one")
    assert medmo.busy.wait(10)
    waiting = submit(queue, "two")
    queue.close()
    assert (running.end().status, waiting.end().status) == (Status.CANCELLED, Status.OVERLOADED)
    assert submit(queue, "three").end().status is Status.OVERLOADED


def test_the_waiting_model_says_the_same_of_every_image_and_stops_when_told() -> None:
    medmo = WaitingMedMO(0.02)
    said = answered(Task.LOCATE, medmo.generate(request("locate", IMAGE)), medmo.identity, queue_s=0.0)
    assert [(box.label, box.box) for box in said.boxes] == [("Nodule", (100, 200, 300, 400))]
    assert said.boxes[0].confidence > 0.95
    assert isinstance(said.boxes[0], Box)
    assert said.generation is not None
    assert 0.02 <= said.generation.timings.total_s < 5
    assert WaitingMedMO(60).generate(request("locate"), should_stop=lambda: True).finish == "cancelled"
