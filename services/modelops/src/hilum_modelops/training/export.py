"""The shipped folder: averaged weights as bf16 safetensors, configuration, tokenizer, processor, hilum.json."""

# torch and transformers are absent where the product is checked, so their types are Any there.
# mypy: disable-error-code="import-not-found,misc,untyped-decorator,no-any-return"

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from hilum_modelops import answers
from hilum_modelops.generator import LABELS
from hilum_modelops.training.architecture import make_model
from hilum_modelops.training.vocabulary import SPECIAL

NAME, VERSION = "MedMO-Nano", "0.3.0"
DISCLAIMER = "MedMO-Nano, trained on generated images, not for patients"
PROCESSOR_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json")
DEFAULT_THRESHOLDS = {label: {"report": 0.10, "urgent": 0.50} for label in LABELS}


def averaged_model(work: Path) -> Any:
    """The model with the averaged weights of work/joint.pt, fp32."""
    tokenizer = AutoTokenizer.from_pretrained(work / "processor")
    model = make_model(len(tokenizer), {t: tokenizer.convert_tokens_to_ids(t) for t in SPECIAL}, 0)
    state = torch.load(work / "joint.pt", weights_only=True)
    with torch.no_grad():
        for parameter, mean in zip(model.parameters(), state["average"], strict=True):
            parameter.copy_(mean)
    return model.eval()


def hilum_json(thresholds: dict[str, dict[str, float]]) -> dict[str, Any]:
    """What Hilum needs to know beside the weights."""
    return {
        "name": NAME, "version": VERSION, "simulation": True, "disclaimer": DISCLAIMER, "labels": list(LABELS),
        "prompts": {"locate": answers.LOCATE, "report": answers.REPORT}, "no_finding": answers.NO_FINDING,
        "thresholds": thresholds,
    }  # fmt: skip


def export(work: Path, target: Path, thresholds: dict[str, dict[str, float]] | None = None) -> None:
    """Writes a whole folder beside the target, then swaps; a README.md that is already there stays."""
    model = averaged_model(work)
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    config = model.config
    config.architectures, config.dtype = ["Qwen3VLForConditionalGeneration"], "bfloat16"
    (fresh / "config.json").write_text(config.to_json_string(use_diff=False))
    generation = {"do_sample": False, "bos_token_id": config.text_config.bos_token_id,
                  "eos_token_id": [config.text_config.eos_token_id, config.text_config.bos_token_id],
                  "pad_token_id": config.text_config.bos_token_id, "max_new_tokens": 256}  # fmt: skip
    (fresh / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    weights = {name: value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    weights.pop("lm_head.weight", None)  # tied to the embedding: stored once
    save_file(weights, fresh / "model.safetensors", metadata={"format": "pt"})
    (fresh / "model.safetensors").chmod(0o644)
    for name in PROCESSOR_FILES:
        shutil.copy(work / "processor" / name, fresh / name)
    (fresh / "hilum.json").write_text(json.dumps(hilum_json(thresholds or DEFAULT_THRESHOLDS), indent=2) + "\n")
    if (target / "README.md").exists():
        shutil.copy(target / "README.md", fresh / "README.md")
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(fresh, target)
    shutil.rmtree(old, ignore_errors=True)
