"""The trainer's own forward is transformers' forward. Runs where torch is (.venv-modelops), is skipped elsewhere."""

from typing import Any

import numpy as np
import pytest

from hilum_modelops import answers
from hilum_modelops.generator import Finding
from hilum_modelops.generator.labels import NODULE

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
