"""Makes tests/golden/medmo/*.npz: what transformers computes for the cases in hilum_medmo.testing.cases.

Needs torch and transformers, which hilum-medmo itself does not; run it in .venv-modelops after changing a case:

    PYTHONPATH=shared/medmo/src .venv-modelops/bin/python shared/medmo/tools/make_golden.py

and, when MedMO-Nano's weights are final, with `--nano shared/medmo/checkpoints/medmo-nano` for nano.npz alone.

Made with transformers 5.24 (torchvision pixels, eager attention, fp32) on the CPU, from nothing of hilum_medmo but
the checkpoints and images that its testing package makes of seeds.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLForConditionalGeneration,
)

from hilum_medmo.identity import checkpoint_digest
from hilum_medmo.model import Request
from hilum_medmo.testing.cases import (
    CASES,
    MAX_NEW_TOKENS,
    NANO_ANSWERS,
    NANO_LOGITS,
    PROCESSOR_PIXELS,
    PROCESSOR_SIZES,
    Case,
    grid_sizes,
    logit_rows,
    nano_request,
    noise_image,
)
from hilum_medmo.testing.random_checkpoint import write_random_checkpoint

GOLDEN = Path(__file__).parents[3] / "tests" / "golden" / "medmo"


def prompt_text(request: Request, image_tokens: list[int]) -> str:
    """Qwen3-VL's chat format, written out by hand so that it is independent of hilum_medmo.chat."""
    images = "".join(f"<|vision_start|>{'<|image_pad|>' * count}<|vision_end|>" for count in image_tokens)
    return f"<|im_start|>user\n{images}{request.prompt}<|im_end|>\n<|im_start|>assistant\n"


class Reference:
    """transformers on one checkpoint."""

    def __init__(self, checkpoint: Path) -> None:
        """Load it and insist that every weight is used."""
        self.model, info = Qwen3VLForConditionalGeneration.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        if any(info.values()):
            raise SystemExit(f"the checkpoint does not load cleanly: {info}")
        self.model.eval()
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(checkpoint / "tokenizer.json"))
        self.processor = Qwen2VLImageProcessor.from_pretrained(checkpoint)

    @torch.no_grad()
    def answer(self, request: Request) -> dict[str, NDArray[Any]]:
        """Prompt ids, positions, some logits, and the greedy continuation with its probabilities."""
        model, inputs, counts = self.model, {}, []
        if request.images:
            seen = self.processor(images=list(request.images), return_tensors="pt", input_data_format="channels_last")
            inputs = {"pixel_values": seen["pixel_values"], "image_grid_thw": seen["image_grid_thw"]}
            counts = (seen["image_grid_thw"].prod(-1) // self.processor.merge_size**2).tolist()
        ids = torch.tensor([self.tokenizer.encode(prompt_text(request, counts), add_special_tokens=False)])
        kinds = (ids == model.config.image_token_id).int()
        positions, _ = model.model.get_rope_index(ids, kinds, inputs.get("image_grid_thw"))
        model.model.rope_deltas = None
        logits = model(input_ids=ids, mm_token_type_ids=kinds, **inputs).logits[0].numpy()
        out = model.generate(
            input_ids=ids,
            mm_token_type_ids=kinds,
            max_new_tokens=request.max_new_tokens,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            **inputs,
        )
        said = out.sequences[0, ids.shape[1] :]
        chances = [torch.softmax(row[0], -1)[token].item() for row, token in zip(out.logits, said, strict=True)]
        return {
            "ids": ids[0].numpy().astype(np.int32),
            "positions": positions[:, 0].numpy().astype(np.int32),
            "logits": logits[logit_rows(len(logits))],
            "answer": said.numpy().astype(np.int32),
            "probabilities": np.array(chances, np.float32),
        }


def case_file(case: Case) -> None:
    """Write one case."""
    with tempfile.TemporaryDirectory() as folder:
        write_random_checkpoint(Path(folder), case.geometry, case.seed)
        reference = Reference(Path(folder))
        arrays: dict[str, NDArray[Any]] = {}
        for number in range(len(case.requests)):
            found = reference.answer(case.request(number))
            arrays |= {f"{number}.{key}": value for key, value in found.items()}
            print(
                f"{case.name} {number}: {len(found['ids'])} prompt tokens, {len(set(found['answer']))} different ones"
            )
    np.savez_compressed(GOLDEN / f"{case.name}.npz", **arrays)


def processor_file() -> None:
    """Write the image processor's grids and pixels."""
    arrays: dict[str, NDArray[Any]] = {}
    least, most = PROCESSOR_PIXELS
    common = {
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    small = Qwen2VLImageProcessor(size={"shortest_edge": least, "longest_edge": most}, **common)
    for number, size in enumerate(PROCESSOR_SIZES):
        out = small(images=[noise_image(number, size)], return_tensors="np", input_data_format="channels_last")
        levels = np.rint((out["pixel_values"] * 0.5 + 0.5) * 255).astype(np.uint8)
        arrays[f"{number}.grid"] = out["image_grid_thw"][0]
        arrays[f"{number}.levels"] = levels.reshape(len(levels), 3, 2, -1)[:, :, 0]  # both frames are the same
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    for name, (low, high) in {"small": PROCESSOR_PIXELS, "qwen": (65_536, 16_777_216)}.items():
        sizes = [smart_resize(*size, 32, low, high) for size in grid_sizes()]
        arrays[f"sizes.{name}"] = np.array(sizes, np.int32)
    np.savez_compressed(GOLDEN / "processor.npz", **arrays)


def nano_file(checkpoint: Path) -> None:
    """Write MedMO-Nano's answers, and for some the logits before the first token."""
    reference = Reference(checkpoint)
    found = [reference.answer(nano_request(number)) for number in range(NANO_ANSWERS)]
    longest = max(len(one["answer"]) for one in found)
    answers = np.full((NANO_ANSWERS, longest), -1, np.int32)
    for row, one in zip(answers, found, strict=True):
        row[: len(one["answer"])] = one["answer"]
    first = np.stack([found[number]["logits"][-1] for number in NANO_LOGITS])
    np.savez_compressed(
        GOLDEN / "nano.npz", answers=answers, logits=first, digest=np.array(checkpoint_digest(checkpoint))
    )
    print(
        f"{NANO_ANSWERS} answers of at most {longest} tokens, {len({one.tobytes() for one in answers})} different ones"
    )


def main() -> None:
    """Write the golden files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nano", type=Path, help="MedMO-Nano's checkpoint: write its answers instead")
    checkpoint: Path | None = parser.parse_args().nano
    torch.set_num_threads(1)
    GOLDEN.mkdir(parents=True, exist_ok=True)
    if checkpoint is not None:
        nano_file(checkpoint)
        return
    processor_file()
    for case in CASES:
        case_file(case)
    print(f"answers of at most {MAX_NEW_TOKENS} tokens in {GOLDEN}")


if __name__ == "__main__":
    main()
