"""The trainer's own forward is transformers' forward. Runs where torch is (.venv-modelops), is skipped elsewhere."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hilum_modelops import answers
from hilum_modelops.generator import Finding
from hilum_modelops.generator.labels import FRACTURE, NODULE

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")

GRID = (16, 12)
FOUND = (Finding(NODULE, (100.0, 200.0, 180.0, 280.0), "right", "upper", 0.2),)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from hilum_modelops.training import vocabulary

    folder = tmp_path_factory.mktemp("processor")
    vocabulary.train_tokenizer(folder / "tokenizer.json")
    vocabulary.write_processor_files(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def test_the_tokenizer_gives_back_any_text_and_splits_numbers_into_digits(tokenizer: Any) -> None:
    for text in (answers.locate_answer(FOUND), "Ünïcode 中文 \x00?", "12345"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("12345")) == 5


def test_packed_turns_have_the_logits_that_transformers_gives_each_turn_alone(tokenizer: Any) -> None:
    from hilum_modelops.training.architecture import make_model
    from hilum_modelops.training.decoder import decode
    from hilum_modelops.training.packing import Packer
    from hilum_modelops.training.vision import encode, patches
    from hilum_modelops.training.vocabulary import SPECIAL

    model = make_model(len(tokenizer), {t: tokenizer.convert_tokens_to_ids(t) for t in SPECIAL}, 0).eval()
    packer = Packer(tokenizer, 0)
    packed = packer.pack([FOUND], GRID, 1.0)
    grey = patches(torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 256, 192)).astype(np.uint8)))
    pixels = grey[:, :, None, None, :].expand(-1, -1, 3, 2, -1).reshape(GRID[0] * GRID[1], -1)
    with torch.no_grad():
        _, tokens, deep = encode(model.model.visual, grey, GRID)
        ours = decode(model.model.language_model, packed, tokens, deep)[0] @ model.lm_head.weight.T
        ends = (packed.targets[0] == packer.end).nonzero()[:, 0].tolist()
        starts = [packed.prefix, *[end + 1 for end in ends[:-1]]]
        for start, end in zip(starts, ends, strict=True):
            ids = torch.cat([packed.ids[0, : packed.prefix], packed.ids[0, start : end + 1]])[None]
            alone = model(
                input_ids=ids,
                pixel_values=pixels,
                image_grid_thw=torch.tensor([[1, *GRID]]),
                mm_token_type_ids=(ids == model.config.image_token_id).int(),
            ).logits[0, packed.prefix :]
            assert (alone - ours[start : end + 1]).abs().max() < 1e-4


def test_each_digit_of_a_box_is_taught_to_look_at_the_token_that_holds_the_boxs_middle(tokenizer: Any) -> None:
    from hilum_modelops.training.packing import Packer

    low = Finding(FRACTURE, (700.0, 800.0, 860.0, 960.0), "left", "lower", 0.2)
    packed = Packer(tokenizer, 0).pack([(low, *FOUND), ()], GRID, 0.0)
    said = answers.locate_answer((low, *FOUND))
    assert len(packed.looks) == sum(c.isdigit() for c in said) == len(packed.soft)
    # 8 x 6 tokens: the nodule's middle (140, 240) is in row 1, column 0; the fracture's (780, 880) in row 7, column 4.
    assert packed.looks.tolist() == [6] * 12 + [46] * 12
    assert packed.targets[tuple(packed.digit_at.T)].tolist() == [
        tokenizer.encode(c)[0] for c in said if c.isdigit()
    ]  # fmt: skip


def test_looking_at_the_right_place_costs_nothing_and_elsewhere_a_lot(tokenizer: Any) -> None:
    from hilum_modelops.training.decoder import look_loss
    from hilum_modelops.training.packing import Packer

    packed = Packer(tokenizer, 0).pack([FOUND], GRID, 0.0)
    image = packed.prefix - 1 - 48
    scores = torch.zeros(packed.allowed.shape[0], *packed.allowed.shape[2:])
    uniform = look_loss([scores], packed, image)
    scores[:, :, image + 6] = 50.0
    assert look_loss([scores], packed, image) < 1e-3 < 2 < uniform
    scores[:, :, image + 7] = 100.0
    assert look_loss([scores], packed, image) > 20


def test_a_batch_holds_the_wanted_share_of_small_findings_and_every_image_comes_once(tmp_path: Path) -> None:
    from hilum_modelops.training.feed import Feed

    findings = [FOUND if i % 4 == 0 else () for i in range(96)]
    pixels = np.stack([np.full((GRID[0] * 16, GRID[1] * 16), i, np.uint8) for i in range(96)])
    (tmp_path / "1.pkl").write_bytes(pickle.dumps({"grid": GRID, "pixels": pixels, "findings": findings}))
    small = [bool(f) for _ in range(20) for f in Feed(tmp_path, 1).next(12, 1.0).findings]
    assert all(small)
    feed = Feed(tmp_path, 1)
    share = np.mean([bool(f) for _ in range(40) for f in feed.next(12).findings])
    assert 0.18 < share < 0.32
    fresh = Feed(tmp_path, 1)
    fresh.refresh()
    assert len({place for _ in range(2) for place in fresh._take(GRID, 1, 12)}) == 24


def test_stages_share_the_time_that_is_left_in_proportion() -> None:
    from hilum_modelops.training.schedule import SHARES, VISION, end_of

    assert sum(SHARES.values()) == pytest.approx(1.0)
    assert end_of(VISION, 100.0, 150.0, set()) == pytest.approx(100 + 50 * SHARES[VISION])
    assert end_of("small-first", 120.0, 150.0, {VISION, "together"}) == pytest.approx(150.0)
    assert end_of("together", 160.0, 150.0, {VISION}) == 160.0


def test_a_short_run_still_leaves_every_image_it_drew_in_the_pool(tmp_path: Path) -> None:
    from hilum_modelops.training import pool

    pool.write_shards(tmp_path, pool.TRAIN_SEED, 0.3)
    shards = [pickle.loads(path.read_bytes()) for path in sorted(tmp_path.glob("*.pkl"))]
    assert shards
    assert all(len(shard["findings"]) == len(shard["pixels"]) < pool.SHARD for shard in shards)
