"""Building, loading and generating."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hilum_medmo import CheckpointError, MedMO, Request, RequestError, load
from hilum_medmo import build as building
from hilum_medmo.__main__ import main
from hilum_medmo.answer import AnswerText
from hilum_medmo.build import built
from hilum_medmo.chat import Chat
from hilum_medmo.config import read_config
from hilum_medmo.identity import checkpoint_digest
from hilum_medmo.testing import Geometry, ScriptedMedMO, answer, write_random_checkpoint
from hilum_medmo.testing.cases import noise_image
from hilum_medmo.testing.together import load_together

SMALL = Geometry(layers=2, vision_depth=2, deepstack_layers=(0, 1), max_positions=256)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    write_random_checkpoint(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def medmo(checkpoint: Path) -> MedMO:
    return load(checkpoint, threads=1)


def image(seed: int = 1) -> NDArray[np.uint8]:
    return noise_image(seed, (90, 70))


def builds(checkpoint: Path) -> list[Path]:
    return sorted((checkpoint / "onnx").glob("*/build.json"))


def test_no_torch_or_transformers_is_imported() -> None:
    code = "import sys, hilum_medmo.__main__; print({'torch', 'transformers', 'safetensors'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_loaded_model_leaves_the_floating_point_mode_of_its_process_alone(medmo: MedMO) -> None:
    assert medmo.generate(Request((image(),), "Detect.", max_new_tokens=2)).tokens
    assert sys.float_info.min / 4 > 0, "subnormal numbers have become zero for the whole process"


def test_an_answer_has_tokens_that_cover_its_text(medmo: MedMO) -> None:
    generation = medmo.generate(Request((image(),), "Detect", 30))
    assert generation.finish in ("stop", "length")
    assert "".join(token.text for token in generation.tokens) == generation.text
    assert all(0 < token.probability <= 1 for token in generation.tokens)
    assert generation.tokens[-1].end == len(generation.text)
    assert all(time > 0 for time in (generation.timings.preprocess_s, generation.timings.prefill_s))
    assert generation.timings.vision_s < generation.timings.prefill_s


def test_threads_share_a_model_and_get_the_answers_they_would_get_alone(medmo: MedMO) -> None:
    requests = [Request((image(seed),), "Detect", 20) for seed in range(4)]
    alone = [medmo.generate(request).tokens for request in requests]
    with ThreadPoolExecutor(4) as pool:
        together = [generation.tokens for generation in pool.map(medmo.generate, requests)]
    assert together == alone


@pytest.mark.parametrize("calls", range(6))
def test_a_request_stops_when_it_is_told_to(medmo: MedMO, calls: int) -> None:
    whole = medmo.generate(Request((image(),), "Detect", 20))
    assert len(whole.tokens) > 6
    asked = itertools.count()
    generation = medmo.generate(Request((image(),), "Detect", 20), should_stop=lambda: next(asked) >= calls)
    assert generation.finish == "cancelled"
    assert len(generation.tokens) == max(0, calls - 1)  # asked before the image, the prompt, and each further token
    assert [token.id for token in generation.tokens] == [token.id for token in whole.tokens[: len(generation.tokens)]]


def test_max_new_tokens_ends_an_answer(medmo: MedMO) -> None:
    generation = medmo.generate(Request((), "Detect", 3))
    assert (generation.finish, len(generation.tokens)) == ("length", 3)


@pytest.mark.parametrize(
    "request_",
    [
        Request((), "x", 0),
        Request((), "x", 256),
        Request((), "x " * 400, 8),
        Request((np.zeros((4, 4), np.uint8),), "x", 8),
    ],
)
def test_a_request_that_can_never_succeed_says_so(medmo: MedMO, request_: Request) -> None:
    with pytest.raises(RequestError):
        medmo.generate(request_)


def test_characters_made_of_several_tokens_span_all_of_them(checkpoint: Path) -> None:
    chat = Chat(checkpoint, read_config(checkpoint))
    text = "Größe 肺 🫁!"
    ids = chat.tokenizer.encode(text, add_special_tokens=False).ids
    growing = AnswerText(chat.tokenizer, chat.hidden_tokens)
    for token in [*ids, min(chat.stop_tokens)]:
        growing.append(token, 0.5)
    read, tokens = growing.finish()
    assert read == text
    assert "".join(token.text for token in tokens) == text
    assert {character for token in tokens for character in range(token.start, token.end)} == set(range(len(text)))
    lungs = [token for token in tokens if token.start <= text.index("🫁") < token.end]
    assert len(lungs) == 4
    assert (tokens[-1].text, tokens[-1].start, tokens[-1].end) == ("", len(text), len(text))


def test_bytes_that_are_no_text_do_not_pile_up(checkpoint: Path) -> None:
    chat = Chat(checkpoint, read_config(checkpoint))
    lone = next(token for token, name in enumerate(chat.tokenizer.id_to_token(i) for i in range(256)) if name == "Ģ")
    growing = AnswerText(chat.tokenizer, chat.hidden_tokens)
    for _ in range(40):
        growing.append(lone, 0.5)
    text, tokens = growing.finish()
    assert text == "\ufffd" * 40
    assert max(token.end - token.start for token in tokens) <= 8


def test_graphs_are_built_once_and_again_for_other_weights(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, SMALL, seed=1)
    load(tmp_path, threads=1)
    (first,) = builds(tmp_path)
    made = first.stat().st_mtime_ns
    load(tmp_path, threads=1)
    assert [path.stat().st_mtime_ns for path in builds(tmp_path)] == [made]
    write_random_checkpoint(tmp_path, SMALL, seed=2)
    load(tmp_path, threads=1)
    (second,) = builds(tmp_path)
    assert second != first


def test_another_builder_version_builds_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_random_checkpoint(tmp_path, SMALL)
    load(tmp_path, threads=1)
    before = builds(tmp_path)
    monkeypatch.setattr(building, "BUILDER_VERSION", building.BUILDER_VERSION + 1)
    load(tmp_path, threads=1)
    assert len(builds(tmp_path)) == 1
    assert builds(tmp_path) != before


def test_a_build_that_lost_bytes_is_made_again_and_dead_ones_are_removed(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, SMALL)
    load(tmp_path, threads=1)
    (manifest,) = builds(tmp_path)
    os.truncate(manifest.parent / "decoder.onnx.data", 100)
    (tmp_path / "onnx" / "tmp-dead").mkdir()
    load(tmp_path, threads=1)
    assert json.loads(manifest.read_text())["files"]["decoder.onnx.data"] > 100
    assert not (tmp_path / "onnx" / "tmp-dead").exists()


def test_a_failed_build_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_random_checkpoint(tmp_path, SMALL)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(building, "write_decoder", full)
    with pytest.raises(CheckpointError, match="No space left"):
        load(tmp_path)
    assert [path.name for path in (tmp_path / "onnx").iterdir()] == [".lock"]


def test_weights_that_change_during_the_build_are_not_filed_under_the_old_digest(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, SMALL, seed=1)
    old = checkpoint_digest(tmp_path)
    write_random_checkpoint(tmp_path, SMALL, seed=2)
    with pytest.raises(CheckpointError, match="changed"), built(tmp_path, read_config(tmp_path), old):
        pass
    assert builds(tmp_path) == []


def test_processes_that_start_at_once_build_once_and_all_load(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, SMALL)
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    processes = [context.Process(target=load_together, args=(tmp_path, start)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(builds(tmp_path)) == 1
    assert not list((tmp_path / "onnx").glob("tmp-*"))


def test_the_graphs_may_live_elsewhere(checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy, ignore=shutil.ignore_patterns("onnx"))
    load(copy, threads=1, onnx_dir=tmp_path / "graphs")
    assert not (copy / "onnx").exists()
    assert list((tmp_path / "graphs").glob("*/decoder.onnx"))


def test_the_command_builds_and_asks(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--checkpoint", str(checkpoint)]) == 0
    assert "decoder.onnx" in capsys.readouterr().out
    Image.fromarray(image()).save(tmp_path / "image.png")
    arguments = [
        "ask",
        "--checkpoint",
        str(checkpoint),
        "--image",
        str(tmp_path / "image.png"),
        "--max-new-tokens",
        "4",
    ]
    assert main(arguments) == 0
    assert "4 tokens" in capsys.readouterr().err
    assert main(["build", "--checkpoint", str(tmp_path)]) == 1
    assert "missing" in capsys.readouterr().err


def test_the_scripted_model_answers_and_remembers() -> None:
    failure = RequestError("too long")
    scripted = ScriptedMedMO({"a": "Nodule", "b": answer("x", finish="length"), "c": failure})
    model: MedMO = scripted
    assert model.generate(Request((), "a")).text == "Nodule"
    assert model.generate(Request((), "b")).finish == "length"
    assert model.generate(Request((), "a"), should_stop=lambda: True).finish == "cancelled"
    with pytest.raises(RequestError):
        model.generate(Request((), "c"))
    assert [request.prompt for request in scripted.requests] == ["a", "b", "a", "c"]
