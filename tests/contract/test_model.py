"""The model port's behaviour, with MedMO-Nano in this process and on a real tritonserver: the same answers."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hilum.domain.errors import Busy, Reject
from hilum.domain.inference import Lane, Task, TaskKind
from hilum.ports.model import Model
from hilum.testing.model_server import ModelServer, medmo_server
from hilum_medmo.testing.cases import nano_request
from hilum_worker import medmo
from hilum_worker.triton.model import TritonModel, connect
from hilum_worker.triton.replica import Patience

pytestmark = pytest.mark.slow

LOCATE, REPORT = Task(TaskKind.LOCATE), Task(TaskKind.REPORT)
QUESTION = Task(TaskKind.QUESTION, "Is there a nodule?")
IMAGES = 12
SIDES = ["in process", "triton"]


@dataclass
class Both:
    here: medmo.MedMOModel
    there: TritonModel
    server: ModelServer

    def side(self, name: str) -> Model:
        return self.here if name == "in process" else self.there


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    checkpoint = medmo.default_checkpoint()
    with medmo_server(tmp_path_factory.mktemp("triton")) as server:
        there = connect(
            [server.address],
            Patience(60, 10),
            declared=medmo.declared(checkpoint),
            digest="",
            stop=threading.Event(),
        )
        assert there is not None
        yield Both(medmo.load(checkpoint, threads=1, should_stop=lambda: False), there, server)
        there.close()


def image(number: int) -> NDArray[np.uint8]:
    return nano_request(number).images[0]


def test_every_image_gets_the_same_text_boxes_and_probabilities_on_both_sides(both: Both) -> None:
    boxes = 0
    for number in range(IMAGES):
        for task in (LOCATE, REPORT, QUESTION):
            here, there = both.here.answer(task, image(number)), both.there.answer(task, image(number))
            assert (there.text, there.findings) == (here.text, here.findings), f"image {number}, {task.kind}"
            boxes += len(here.findings)
    assert boxes > 0, "no image has a finding, so nothing was compared"


@pytest.mark.parametrize("side", SIDES)
def test_the_port_says_who_answers_and_how_long_it_took(side: str, both: Both) -> None:
    model, declared = both.side(side), medmo.declared(medmo.default_checkpoint())
    assert (model.identity.name, model.identity.digest) == ("MedMO-Nano", declared.digest)
    assert model.identity.simulation
    assert model.labels == declared.labels
    assert model.prompt(LOCATE) == declared.prompts["locate"]
    model.ready()
    assert 0 < model.answer(LOCATE, image(0), lane=Lane.STAT).seconds < 60


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("question", ["\ue000", "x" * 499 + "\ue001"])
def test_a_question_that_the_model_can_not_take_is_rejected(side: str, question: str, both: Both) -> None:
    with pytest.raises(Reject, match="the model can't be asked: "):
        both.side(side).answer(Task(TaskKind.QUESTION, question), image(0))
    assert both.side(side).answer(QUESTION, image(0)).text


@pytest.mark.parametrize("side", SIDES)
def test_images_of_odd_sizes_are_answered(side: str, both: Both) -> None:
    for shape in ((1, 1), (33, 1000), (1001, 17)):
        pixels = np.full((*shape, 3), 90, np.uint8)
        answer = _outcome(both.side(side), pixels)
        assert answer == _outcome(both.here, pixels)


def _outcome(model: Model, pixels: NDArray[np.uint8]) -> Any:
    try:
        return model.answer(REPORT, pixels).text
    except Reject as error:
        return error.reason


@pytest.mark.parametrize("side", SIDES)
def test_a_worker_that_stops_gets_its_thread_back_at_once(side: str, both: Both) -> None:
    stop = threading.Event()
    stop.set()
    declared = medmo.declared(medmo.default_checkpoint())
    model: Model
    if side == "triton":
        stopped = connect([both.server.address], Patience(60, 10), declared=declared, digest="", stop=stop)
        assert stopped is not None
        model = stopped
    else:
        model = medmo.load(medmo.default_checkpoint(), threads=1, should_stop=stop.is_set)
    with pytest.raises(Busy, match="the worker is stopping"):
        model.answer(REPORT, image(0))


def test_many_threads_at_once_get_each_its_own_answer(both: Both) -> None:
    expected = [both.here.answer(LOCATE, image(number)).text for number in range(6)]
    found: dict[int, str] = {}
    declared = medmo.declared(medmo.default_checkpoint())

    def ask(number: int) -> None:
        client = connect([both.server.address], Patience(60, 10), declared=declared, digest="", stop=threading.Event())
        assert client is not None
        found[number] = client.answer(LOCATE, image(number)).text
        client.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[number] for number in range(6)] == expected
