"""Reading a checkpoint: config, weights, identity, image processor."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hilum_medmo import CheckpointError, RequestError, Threshold
from hilum_medmo.config import read_config
from hilum_medmo.identity import DEFAULT_DISCLAIMER, checkpoint_digest, read_identity
from hilum_medmo.image_processor import read_image_processor
from hilum_medmo.testing import NANO, write_random_checkpoint
from hilum_medmo.weights import Weights


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_random_checkpoint(tmp_path)
    return tmp_path


def edit(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text())
    for key, change in changes.items():
        value[key] = {**value[key], **change} if isinstance(change, dict) and key in value else change
    path.write_text(json.dumps(value))


def test_sizes_are_read_from_either_spelling_of_the_rotary_settings(checkpoint: Path) -> None:
    old = read_config(checkpoint)
    raw = json.loads((checkpoint / "config.json").read_text())
    text = raw["text_config"]
    text["rope_parameters"] = text.pop("rope_scaling") | {"rope_theta": text.pop("rope_theta")}
    (checkpoint / "config.json").write_text(json.dumps(raw))
    assert read_config(checkpoint) == old
    assert old.text.rope_theta == 10_000.0
    assert old.text.mrope_section == (4, 2, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen2_vl"}, "model_type"),
        ({"text_config": {"num_key_value_heads": 3}}, "num_key_value_heads"),
        ({"text_config": {"head_dim": 18}}, "mrope_section"),
        ({"text_config": {"hidden_act": "relu"}}, "activation"),
        ({"text_config": {"rope_scaling": {"rope_type": "yarn"}}}, "yarn"),
        ({"text_config": {"vocab_size": "many"}}, "many"),
        ({"vision_config": {"out_hidden_size": 65}}, "out_hidden_size"),
        ({"vision_config": {"deepstack_visual_indexes": [9]}}, "DeepStack"),
        ({"vision_config": {"deepstack_visual_indexes": [0, 1, 2, 3, 3]}}, "DeepStack"),
    ],
)
def test_a_config_that_cannot_be_right_is_refused(checkpoint: Path, changes: dict[str, Any], message: str) -> None:
    edit(checkpoint / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        read_config(checkpoint)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(checkpoint: Path, name: str) -> None:
    from hilum_medmo import load

    (checkpoint / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load(checkpoint)


def safetensors(path: Path, dtype: str, shape: list[int], data: bytes, offsets: list[int] | None = None) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": dtype, "shape": shape, "data_offsets": offsets or [0, len(data)]},
    }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    ("dtype", "data"),
    [
        ("BF16", b"\xc0\x3f\x20\xc0"),
        ("F16", np.array([1.5, -2.5], "<f2").tobytes()),
        ("F32", np.array([1.5, -2.5], "<f4").tobytes()),
    ],
)
def test_weights_of_every_float_type_widen_exactly(tmp_path: Path, dtype: str, data: bytes) -> None:
    safetensors(tmp_path / "model.safetensors", dtype, [1, 2], data)
    with Weights(tmp_path) as weights:
        values = weights.read("a")
    assert values.dtype == np.float32
    assert values.tolist() == [[1.5, -2.5]]


def test_sharded_weights_are_found_through_the_index_and_only_in_their_folder(tmp_path: Path) -> None:
    safetensors(tmp_path / "part.safetensors", "F32", [1], b"\0\0\x80?")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "part.safetensors"}}')
    with Weights(tmp_path) as weights:
        assert weights.read("a").tolist() == [1.0]
        with pytest.raises(CheckpointError, match="'b'"):
            weights.read("b")
    index.write_text('{"weight_map": {"a": "../part.safetensors"}}')
    with pytest.raises(CheckpointError, match="outside"):
        Weights(tmp_path)


@pytest.mark.parametrize(
    ("dtype", "shape", "offsets"),
    [("F32", [2], [0, 4]), ("F32", [1], [0, 400]), ("I8", [4], None), ("F32", [1], [4, 0])],
)
def test_a_broken_safetensors_file_is_refused(
    tmp_path: Path, dtype: str, shape: list[int], offsets: list[int] | None
) -> None:
    safetensors(tmp_path / "model.safetensors", dtype, shape, b"\0\0\0\0", offsets)
    with pytest.raises(CheckpointError, match="no valid safetensors"):
        Weights(tmp_path)


@pytest.mark.parametrize("data", [b"", b"123", struct.pack("<Q", 1 << 60), struct.pack("<Q", 4) + b"nope"])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError):
        Weights(tmp_path)


def test_the_digest_changes_with_every_file_that_changes_answers_and_no_other(checkpoint: Path) -> None:
    digest = checkpoint_digest(checkpoint)
    assert len(digest) == 64
    for name in ("config.json", "tokenizer.json", "generation_config.json", "preprocessor_config.json"):
        path = checkpoint / name
        whole = path.read_bytes()
        path.write_bytes(whole + b" ")
        assert checkpoint_digest(checkpoint) != digest, name
        path.write_bytes(whole)
    (checkpoint / "README.md").write_text("a card")
    (checkpoint / "hilum.json").unlink()
    assert checkpoint_digest(checkpoint) == digest


def test_identity_comes_from_hilum_json(checkpoint: Path) -> None:
    identity = read_identity(checkpoint, "d")
    assert (identity.name, identity.version, identity.digest, identity.simulation) == ("MedMO-Random", "0", "d", True)
    assert identity.labels == ("Nodule",)
    assert identity.thresholds == {"Nodule": Threshold(0.1, 0.5)}
    assert identity.no_finding == ("No finding",)


def test_a_checkpoint_without_hilum_json_is_no_simulation_and_has_an_open_label_set(checkpoint: Path) -> None:
    (checkpoint / "hilum.json").unlink()
    identity = read_identity(checkpoint, "d")
    assert (identity.name, identity.simulation, identity.labels) == (checkpoint.name, False, ())
    assert identity.disclaimer == DEFAULT_DISCLAIMER


@pytest.mark.parametrize(
    "changes",
    [
        {"simulation": "yes"},
        {"simulation": None},
        {"disclaimer": " "},
        {"thresholds": {"Nodule": {"report": 0.6, "urgent": 0.5}}},
        {"thresholds": {"Nodule": 0.5}},
        {"labels": [1]},
        {"no_finding": 3},
        {"prompts": {"locate": ""}},
    ],
)
def test_a_malformed_hilum_json_is_refused_rather_than_guessed(checkpoint: Path, changes: dict[str, Any]) -> None:
    value = json.loads((checkpoint / "hilum.json").read_text()) | changes
    (checkpoint / "hilum.json").write_text(json.dumps(value))
    with pytest.raises(CheckpointError, match=r"hilum\.json"):
        read_identity(checkpoint, "d")


def test_without_a_preprocessor_config_qwen3_vls_own_limits_hold(checkpoint: Path) -> None:
    (checkpoint / "preprocessor_config.json").unlink()
    processor = read_image_processor(checkpoint, read_config(checkpoint).vision)
    assert (processor.min_pixels, processor.max_pixels, processor.mean) == (65_536, 16_777_216, (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    "changes", [{"do_resize": False}, {"resample": 0}, {"rescale_factor": 1.0}, {"patch_size": 14}]
)
def test_an_image_processor_that_does_something_else_is_refused(checkpoint: Path, changes: dict[str, Any]) -> None:
    edit(checkpoint / "preprocessor_config.json", **changes)
    with pytest.raises(CheckpointError, match="image processor"):
        read_image_processor(checkpoint, read_config(checkpoint).vision)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((64, 64, 3), np.float32),
        np.zeros((0, 64, 3), np.uint8),
        np.zeros((1, 201, 3), np.uint8),
    ],
)
def test_an_array_that_is_no_image_is_the_requests_fault(checkpoint: Path, image: Any) -> None:
    with pytest.raises(RequestError):
        read_image_processor(checkpoint, read_config(checkpoint).vision).patches(image)


def test_patches_are_in_merge_block_order(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path, NANO)
    processor = read_image_processor(tmp_path, read_config(tmp_path).vision)
    image = np.zeros((224, 224, 3), np.uint8)
    image[:16, 16:32] = 255  # row 0, column 1: the second patch of the first block
    image[16:32, 32:48] = 255  # row 1, column 2: the third patch of the second block
    patches, grid = processor.patches(image)
    assert (grid.rows, grid.columns) == (14, 14)
    assert np.flatnonzero(patches.max(axis=1) > 0).tolist() == [1, 6]
