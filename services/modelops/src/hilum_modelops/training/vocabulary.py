"""The tokenizer: byte-level BPE with Qwen's pre-tokeniser, single digits, and Qwen's special tokens."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from hilum_modelops import answers
from hilum_modelops.generator import LABELS, Finding

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
           "<|video_pad|>")  # fmt: skip
BOX = ("<box>", "</box>")
CHAT_TEMPLATE = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].content is string %}
        {{- messages[0].content }}
    {%- else %}
        {%- for content in messages[0].content %}
            {%- if 'text' in content %}
                {{- content.text }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or message.role == 'assistant' %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- if message.content is string %}
            {{- message.content }}
        {%- else %}
            {%- for content in message.content %}
                {%- if content.type == 'image' or 'image' in content or 'image_url' in content %}
                    {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
                {%- elif content.type == 'video' or 'video' in content %}
                    {{- '<|vision_start|><|video_pad|><|vision_end|>' }}
                {%- elif 'text' in content %}
                    {{- content.text }}
                {%- endif %}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
ENGLISH = """What is shown in this image? Please describe the picture. How old is the patient? Is it a man or a woman?
Where are the lungs? Are there any lines, tubes or devices? Is the trachea in the middle? Can you see the
diaphragm on both sides? Was this image taken lying down or standing? Is the quality of this radiograph
good enough to read? Compare the left lung with the right lung. Does the patient need a follow-up
examination or a CT scan? Which finding is the most urgent? Should a radiologist look at this study
first? Explain the answer in simple words. Summarize the findings for the doctor. user assistant system
You are a helpful medical assistant. Give a short answer. yes no left right upper middle lower
"""


def _fake(rng: np.random.Generator) -> list[Finding]:
    found = []
    for _ in range(int(rng.integers(0, 4))):
        box = rng.integers(0, 1000, 4)
        side, zone = str(rng.choice(("left", "right"))), str(rng.choice(("upper", "middle", "lower")))
        found.append(Finding(str(rng.choice(LABELS)), (box[0], box[1], box[2], box[3]), side, zone, 0.0))
    return found


def corpus(count: int) -> Iterator[str]:
    """Prompts and answers for invented findings, and some general English questions."""
    rng = np.random.default_rng(3)
    for index in range(count):
        found = _fake(rng)
        yield answers.locate_answer(found)
        yield answers.report(found)
        yield "\n".join(answers.question(rng, found))
        yield str(rng.choice(answers.LOCATE_PHRASES)) + "\n" + str(rng.choice(answers.REPORT_PHRASES))
        if index % 10 == 0:
            yield ENGLISH


def train_tokenizer(path: Path) -> Tokenizer:
    """Trains on the corpus and writes tokenizer.json."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1015, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
    )  # fmt: skip
    texts = (text.replace("<box>", "\n").replace("</box>", "\n") for text in corpus(3000))
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in BOX])
    tokenizer.save(str(path))
    return tokenizer


def write_processor_files(folder: Path) -> None:
    """tokenizer_config.json, chat_template.jinja and preprocessor_config.json as transformers reads them."""
    config = {
        "tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, "add_bos_token": False, "bos_token": None,
        "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None, "errors": "replace",
        "clean_up_tokenization_spaces": False, "model_max_length": 4096, "split_special_tokens": False,
        "processor_class": "Qwen3VLProcessor",
    }  # fmt: skip
    pre = {
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen3VLProcessor", "patch_size": 16,
        "temporal_patch_size": 2, "merge_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        "size": {"shortest_edge": 32768, "longest_edge": 51200}, "min_pixels": 32768, "max_pixels": 51200,
        "do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_convert_rgb": True,
        "resample": 3,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "preprocessor_config.json").write_text(json.dumps(pre, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
