"""The model card: figures measured by `hilum-modelops evaluate`, facts of training, limits, in one README.md."""

from typing import Any

# ruff: noqa: E501  # f-strings wider than the lines of prose that they make

Figures = dict[str, Any]


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _located(figures: Figures) -> list[str]:
    rows = ["| label | findings | recall | precision | mean IoU |", "| --- | ---: | ---: | ---: | ---: |"]
    for label, row in figures["labels"].items():
        rows.append(
            f"| {label} | {row['findings']} | {row['recall']:.3f} | {row['precision']:.3f} | {row['mean_iou_matched']:.3f} |"
        )
    rows.append(
        f"| **all** | {figures['findings']} | **{figures['recall']:.3f}** | {figures['precision']:.3f} | "
        f"**{figures['mean_iou_matched']:.3f}** |"
    )
    return rows


def _summary(name: str, figures: Figures) -> str:
    return (
        f"| {name} | {figures['images']} | {figures['recall']:.3f} | {figures['mean_iou_matched']:.3f} | "
        f"{_percent(figures['false_positive_normals'])} of {figures['normals']} | {figures['malformed']} |"
    )


def _difficulty(table: dict[str, dict[str, float]]) -> list[str]:
    rows = ["| label | contrast 5 / 50 / 95 % | size 5 / 50 / 95 % |", "| --- | --- | --- |"]
    for label, row in table.items():
        contrast = " / ".join(f"{row[f'contrast_p{p}']:.2f}" for p in (5, 50, 95))
        size = " / ".join(f"{row[f'size_p{p}']:.2f}" for p in (5, 50, 95))
        rows.append(f"| {label} | {contrast} | {size} |")
    return rows


def _thresholds(table: dict[str, dict[str, float]]) -> list[str]:
    rows = ["| label | report | urgent |", "| --- | ---: | ---: |"]
    return rows + [f"| {label} | {row['report']:.2f} | {row['urgent']:.2f} |" for label, row in table.items()]


def _aims(goal: Figures) -> list[str]:
    aims = (
        ("recall at IoU 0.5", goal["recall"], "≥ 0.85", goal["recall"] >= 0.85),
        ("mean IoU of matched boxes", goal["mean_iou_matched"], "≥ 0.65", goal["mean_iou_matched"] >= 0.65),
        ("normals with a box", goal["false_positive_normals"], "≤ 0.05", goal["false_positive_normals"] <= 0.05),
    )
    return [f"- {name}: {value:.3f}, aim {aim}: {'met' if met else '**not met**'}" for name, value, aim, met in aims]


def _held_out(figures: Figures, facts: Figures) -> list[str]:
    return [
        "## Held out\n",
        f"{figures['a']['images']} images of unseen seeds ({figures['seed']} and on), never used for training or for\n"
        "choosing weights or thresholds, asked through Hilum's ONNX runtime on a CPU, greedy. Recall is at IoU 0.5 with the right\n"
        "label, one box for one finding. Variant b is drawn with other noise, anatomy and texture, never trained on.\n",
        "| images | n | recall | mean IoU of matched | normals with a box | malformed |",
        "| --- | ---: | ---: | ---: | --- | ---: |",
        _summary("a, every answer", figures["a"]),
        _summary("a, with the report thresholds", figures["a_thresholds"]),
        _summary("b, every answer", figures["b"]),
        _summary("b, with the report thresholds", figures["b_thresholds"]),
        "\nVariant a, every answer, against what was aimed at:\n",
        *_aims(figures["a"]),
        "\nVariant a by label, every answer:\n",
        *_located(figures["a"]),
        "\nVariant b by label, every answer:\n",
        *_located(figures["b"]),
        "",
        _others(figures, facts),
    ]


def _others(figures: Figures, facts: Figures) -> str:
    blobs, asked, told = figures["blobs"], figures["questions"], figures["reports"]
    return (
        "A threshold-and-blob detector (`hilum_modelops.evaluation.blobs`) on the same images of variant a: recall\n"
        f"{blobs['recall']:.3f}, and a box on {_percent(blobs['false_positive_normals'])} of normals.\n\n"
        f"Yes/no questions: accuracy {_percent(asked['accuracy'])} of {asked['asked']} (sensitivity\n"
        f"{_percent(asked['sensitivity'])}, specificity {_percent(asked['specificity'])}). Reports: the labels they name are\n"
        f"those in the image in {_percent(told['labels_as_in_truth'])} and those of the location answer in\n"
        f"{_percent(told['labels_as_located'])} of {told['reports']}; word for word the reference in\n"
        f"{_percent(told['word_for_word'])}. Median time to locate: {figures['seconds_p50']:.2f} s on one core\n"
        f"{facts.get('measured', '')}.\n"
    )


def write(figures: Figures, facts: Figures, thresholds: dict[str, dict[str, float]]) -> str:
    """The whole card as Markdown."""
    parts = [
        "# MedMO-Nano\n",
        "**MedMO-Nano, trained on generated images, not for patients.** A Qwen3-VL of 10.5 million parameters that speaks\n"
        "MedMO's prompt and answer format, so that Hilum can be run, shown and tested without MedMO's weights. It has seen\n"
        "no real radiograph and says nothing about one. No medical device.\n",
        *_held_out(figures, facts),
        "## How hard the images are\n",
        "Contrast: share of the density range that the finding adds or takes away (fracture: the ribs' contrast; heart:\n"
        "its width over the thorax's). Size: square root of the box's share of the image.\n",
        *_difficulty(figures["difficulty"]),
        _ANSWERS,
        *_thresholds(thresholds),
        "\n## How it was made\n",
        _made(facts),
        _LIMITS,
    ]
    return "\n".join(parts)


_ANSWERS = """
## Answers

- `Detect and localize all abnormalities in this image.` gives `Label <box>[[x1, y1, x2, y2], ...]</box>`, labels joined
  by `, ` in the order of hilum.json; whole numbers on the 0-1000 grid of the whole image. Nothing found:
  `No abnormality detected.`
- `Generate a detailed radiology report for this chest X-ray.` gives `Findings: ... Impression: ...`
- Short questions (`Is there a pneumothorax?`, `Which side is the effusion on?`) give `Yes.`, `No.` or a few words.

Confidence is (product of the probabilities of the label's tokens and its `<box>`) x (geometric mean of the probabilities
of the box's digits). Digits were trained on soft targets, neighbouring values sharing the probability, so 0.4 is already
near the top. Thresholds, chosen on validation images (seeds 8000000 and on):
"""


def _made(facts: Figures) -> str:
    return (
        f"{facts['command']}, seed {facts['seed']}.\n{facts.get('history', '')}\n"
        f"{facts['vision_samples']} images through the ViT alone with dense heads\n"
        f"(label map and box per patch, thrown away afterwards) and {facts['samples']} through the whole model, drawn from\n"
        f"{facts['generated']} generated images with random shift, scale and contrast. {facts['minutes']} minutes of wall clock\n"
        f"on {facts['hardware']}.\n"
        "In the last stage most images hold a nodule or a fracture until two thirds of its time, then as many as are drawn;\n"
        "in two layers one attention head is taught to look at the middle of the box whose digits are being written.\n"
        "bf16 autocast, AdamW, cosine rate to zero, averaged weights, stored as bf16. The order of steps depends on the clock\n"
        "(how many fit until the end), so a second run gives a model of the same kind, not the same bits.\n"
    )


_LIMITS = """\
## Limits

- Generated images only. On a real radiograph its answers mean nothing, however confident; every result of it says so,
  and Hilum never sends them to a destination that is not marked `simulation = true`.
- Six labels; one frontal view; fixed report wording; short questions of the trained kinds. To other questions it answers
  something of that kind.
- The image is shrunk to about 224 x 224 pixels: nothing below about 3 % of the width can be seen.
- The generator's author chose what a finding looks like; the figures measure that, not medicine.
- Under variant b's shift the figures fall, as the table shows; a real shift is larger.
"""
