"""A short fuzz of each target, and every input that ever broke one. `make fuzz SECONDS=N` is the long form."""

import logging
import random
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from hilum_listener.fuzzing.coverage import lines_reached
from hilum_listener.fuzzing.grammar import GRAMMARS, damage
from hilum_listener.fuzzing.targets import TARGETS

HERE = Path(__file__).parent
KNOWN = sorted((HERE / "corpus").rglob("*.bin"))
BROKE = sorted(path for path in (HERE / "broke").rglob("*") if path.is_file())
EXECUTIONS = 400
HANG_S = 2.0


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Readers say a lot about bad input."""
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("path", BROKE, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_once_broke_a_target_no_longer_does(path: Path) -> None:
    begun = time.thread_time()
    TARGETS[path.parent.name](path.read_bytes())
    assert time.thread_time() - begun < HANG_S


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_nearly_right_and_damaged_inputs_neither_break_nor_hang_a_target(name: str) -> None:
    seed = random.randrange(1 << 30)  # another one each time; the message below names it
    beyond = 0
    for number in range(seed, seed + EXECUTIONS):
        draw = random.Random(number)
        data = GRAMMARS[name](draw)
        if number % 3 == 0:
            data = damage(data, draw)
        begun = time.thread_time()
        try:
            beyond += TARGETS[name](data)
        except Exception as error:
            raise AssertionError(f"{name} breaks on seed {number}") from error
        assert time.thread_time() - begun < HANG_S, f"{name} hangs on seed {number}"
    assert beyond > EXECUTIONS / 10


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_the_corpus_gets_beyond_the_pre_check_and_reaches_most_of_a_target(name: str) -> None:
    files = [path for path in KNOWN if path.parent.name == name]
    assert all(TARGETS[name](path.read_bytes()) for path in files)
    reached, every = lines_reached(name, files)
    assert reached / every > (0.25 if name == "pdu" else 0.5)  # connections, sockets and timers are no part of it
