"""Several turns about one image in one sequence: they share the image and see nothing of each other."""

# torch and transformers are absent where the product is checked, so their types are Any there.
# mypy: disable-error-code="import-not-found,misc,untyped-decorator,no-any-return"

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedTokenizerBase

from hilum_modelops import answers
from hilum_modelops.generator import LABELS, Finding
from hilum_modelops.generator.labels import SMALL

DIGIT_SIGMA = 4.0
SMALL_WEIGHT = 2.0
"""The digits of small findings' boxes: they are off by more than half a box if a digit is wrong."""
IGNORE = -1


def _digit_tables() -> npt.NDArray[np.float32]:
    """(1000, 3, 10): for each written value, the soft target of each of its digits given the digits before it."""
    table = np.zeros((1000, 3, 10), dtype=np.float32)
    for value in range(1000):
        low, high = ((0, 10), (10, 100), (100, 1000))[len(str(value)) - 1]
        options = np.arange(max(low, value - 25), min(high, value + 26))
        weight = np.exp(-0.5 * ((options - value) / DIGIT_SIGMA) ** 2)
        texts = np.array([[int(c) for c in str(o)] for o in options])
        alive = np.ones(len(options), dtype=bool)
        for place, digit in enumerate(str(value)):
            for option in range(10):
                table[value, place, option] = weight[alive & (texts[:, place] == option)].sum()
            table[value, place] /= table[value, place].sum()
            alive &= texts[:, place] == int(digit)
    return table


SOFT_DIGITS = _digit_tables()


@dataclass(frozen=True, slots=True)
class Packed:
    """ids (B, L), positions (3, B, L), allowed (B, 1, L, L) bool, targets (B, L) or IGNORE, weights (B, L), and for
    digits: digit_at (n, 2) of (row, position) with soft (n, 10). Position p's target is token p + 1 of its turn. looks
    (n): the image token that holds the middle of the box to which the digit belongs."""

    ids: torch.Tensor
    positions: torch.Tensor
    allowed: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    digit_at: torch.Tensor
    soft: torch.Tensor
    looks: torch.Tensor
    prefix: int


@dataclass(slots=True)
class Row:
    """One image's sequence while it is written."""

    ids: list[int]
    places: list[int]
    branch: list[int]
    targets: list[int]
    weights: list[float]
    digits: list[tuple[int, npt.NDArray[np.float32], int]]


class Packer:
    """Writes findings as turns."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
        self.tokenizer = tokenizer
        self.rng = np.random.default_rng(seed)
        self.cache: dict[str, list[int]] = {}
        self.digits = [self.encode(str(d))[0] for d in range(10)]
        self.is_digit = {token: value for value, token in enumerate(self.digits)}
        self.heads = {self.encode(p + label)[0] for label in LABELS for p in ("", " ")} | {self.encode("No")[0]}
        self.end = self.encode("<|im_end|>")[0]
        self.pad = self.encode("<|endoftext|>")[0]

    def encode(self, text: str) -> list[int]:
        """Token ids, without anything added."""
        if text not in self.cache:
            if len(self.cache) > 5000:
                self.cache.clear()
            self.cache[text] = list(self.tokenizer.encode(text, add_special_tokens=False))
        return self.cache[text]

    def turns(self, findings: tuple[Finding, ...], mode: str) -> list[tuple[str, str, float]]:
        """Prompt, answer, weight: always the location; in mode "report" also a report, in "ask" three questions."""
        rng = self.rng
        chosen = [(str(rng.choice(answers.LOCATE_PHRASES)), answers.locate_answer(findings), 1.0)]
        if mode == "report":
            chosen.append((str(rng.choice(answers.REPORT_PHRASES)), answers.report(findings), 0.5))
        elif mode == "ask":
            chosen.extend((*answers.question(rng, findings), 1.0) for _ in range(3))
        return chosen

    def pack(self, batch: list[tuple[Finding, ...]], grid: tuple[int, int], talk: float) -> Packed:
        """Packs one batch of images with the same grid (in patches); a share `talk` of batches has further turns."""
        mode = str(self.rng.choice(("", "report", "ask"), p=(1 - talk, 0.4 * talk, 0.6 * talk)))
        rows, cols = grid[0] // 2, grid[1] // 2
        head = self.encode("<|im_start|>user\n<|vision_start|>")
        image = self.encode("<|image_pad|>") * (rows * cols)
        prefix = [*head, *image, self.encode("<|vision_end|>")[0]]
        where = _prefix_positions(len(head), rows, cols)
        start = len(head) + max(rows, cols) + 1
        items = [self._row(findings, prefix, start, mode, (rows, cols)) for findings in batch]
        length = -(-max(len(item.ids) for item in items) // 8) * 8
        return self._tensors(items, where, len(prefix), length)

    def _row(
        self, findings: tuple[Finding, ...], prefix: list[int], start: int, mode: str, shape: tuple[int, int]
    ) -> Row:
        blank = len(prefix)
        row = Row(list(prefix), [0] * blank, [0] * blank, [IGNORE] * blank, [0.0] * blank, [])
        for number, (prompt, answer, weight) in enumerate(self.turns(findings, mode), start=1):
            asked = self.encode(prompt + "<|im_end|>\n<|im_start|>assistant\n")
            said = [*self.tokenizer.encode(answer, add_special_tokens=False), self.end]
            base = len(row.ids) + len(asked) - 1
            tokens = [*asked, *said[:-1]]
            row.ids += tokens
            row.places += range(start, start + len(tokens))
            row.branch += [number] * len(tokens)
            row.targets += [IGNORE] * (len(asked) - 1) + said
            located = "<box>" in answer or answer == answers.NO_FINDING
            heavy = [3.0 if (located and token in self.heads) or token == self.end else 1.0 for token in said]
            row.weights += [0.0] * (len(asked) - 1) + [weight * h for h in heavy]
            if "<box>" in answer:
                ordered = answers.in_order(findings)
                for at, soft, value in self._soft_digits(said):
                    item = ordered[value // 4]
                    row.weights[base + at] *= SMALL_WEIGHT if item.label in SMALL else 1.0
                    row.digits.append((base + at, soft, middle_token(item, shape)))
        return row

    def _soft_digits(self, said: list[int]) -> list[tuple[int, npt.NDArray[np.float32], int]]:
        """Per digit: its place in the answer, its soft target, and the how-manieth number it belongs to."""
        out, at, number = [], 0, 0
        while at < len(said):
            end = at
            while end < len(said) and said[end] in self.is_digit:
                end += 1
            if end > at:
                value = int("".join(str(self.is_digit[t]) for t in said[at:end]))
                out += [(at + place, SOFT_DIGITS[value, place], number) for place in range(end - at)]
                number += 1
            at = max(end, at + 1)
        return out

    def _tensors(self, items: list[Row], where: npt.NDArray[np.int64], prefix: int, length: int) -> Packed:
        count = len(items)
        ids = np.full((count, length), self.pad)
        positions = np.zeros((3, count, length), dtype=np.int64)
        branch, targets = np.full((count, length), -1), np.full((count, length), IGNORE)
        weights = np.zeros((count, length), dtype=np.float32)
        for at, row in enumerate(items):
            ids[at, : len(row.ids)], positions[:, at, : len(row.places)] = row.ids, row.places
            branch[at, : len(row.branch)] = row.branch
            targets[at, : len(row.targets)], weights[at, : len(row.weights)] = row.targets, row.weights
        digits = [(at, *digit) for at, row in enumerate(items) for digit in row.digits]
        positions[:, :, :prefix] = where[:, None]
        turn_a, turn_b = branch[:, :, None], branch[:, None, :]
        allowed = np.tril(np.ones((length, length), dtype=bool)) & ((turn_a == turn_b) | (turn_b == 0))
        return Packed(
            torch.from_numpy(ids), torch.from_numpy(positions), torch.from_numpy(allowed)[:, None],
            torch.from_numpy(targets), torch.from_numpy(weights),
            torch.tensor([d[:2] for d in digits], dtype=torch.long).view(-1, 2),
            torch.from_numpy(np.array([d[2] for d in digits], dtype=np.float32).reshape(-1, 10)),
            torch.tensor([d[3] for d in digits], dtype=torch.long), prefix,
        )  # fmt: skip


def middle_token(finding: Finding, shape: tuple[int, int]) -> int:
    """Index of the image token (of rows x cols) that holds the middle of a finding's box."""
    x1, y1, x2, y2 = finding.box
    row, col = int((y1 + y2) / 2000 * shape[0]), int((x1 + x2) / 2000 * shape[1])
    return min(row, shape[0] - 1) * shape[1] + min(col, shape[1] - 1)


def _prefix_positions(head: int, rows: int, cols: int) -> npt.NDArray[np.int64]:
    """(3, prefix) positions over time, height, width: text, image, then the closing token."""
    text = np.tile(np.arange(head), (3, 1))
    row, col = (a.ravel() for a in np.indices((rows, cols)))
    image = np.stack([np.zeros_like(row), row, col]) + head
    return np.concatenate([text, image, np.full((3, 1), head + max(rows, cols))], axis=1)
