"""Which findings a report states as present: a small reading of English radiology prose, sentence by sentence.

It serves one purpose: a finding that the report names and that has no box must not pass unseen. So it errs towards
"present": a hedged finding ("cannot be excluded", "possible") counts, and only a plain denial in the same clause
takes a mention away.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

# Other words that reports use for a label (lower case, singular; `~` stands for a few words in between).
SYNONYMS: dict[str, tuple[str, ...]] = {
    "cardiomegaly": (
        "enlarged heart",
        "enlarged cardiac silhouette",
        "cardiac enlargement",
        "heart is ~enlarged",
        "heart size is ~enlarged",
        "heart size is ~increased",
        "cardiac silhouette is ~enlarged",
    ),
    "pleural effusion": ("effusion", "pleural fluid"),
    "effusion": ("pleural effusion", "pleural fluid"),
    "pneumothorax": ("pneumothoraces", "collapsed lung"),
    "consolidation": ("airspace opacity", "air space opacity", "pneumonia"),
    "nodule": ("nodular opacity",),
    "fracture": ("broken rib", "fractured"),
}
_DEGREES = r"(?:(?:mildly|moderately|severely|slightly|markedly|grossly|significantly|borderline) )?"

_SENTENCE = re.compile(r"(?<=[.!?;])\s+|[\r\n;]+|(?<=\w):\s+(?=[A-Z])(?!No\b|None\b|Absent\b|Negative\b)")
# Words that end the reach of a denial: "no pneumothorax, but a small effusion".
_TURN = re.compile(
    r"\b(?:but|however|although|though|yet|except(?: for)?|apart from|other than|whereas|while|instead"
    r"|(?:and |, )?there (?:is|are|was|were)|(?:and|,) (?:is|are) present|with)\b"
)
_DENIAL = re.compile(
    r"\b(?:no|not|without|neither|nor|never|negative for|free of|free from|absence of|absent|lack of"
    r"|resolution of|rules? out|ruled out|exclud(?:es|ed|ing))\b"
)
# "cannot exclude", "not excluded": two negations that leave the finding open.
_OPEN = re.compile(
    r"\b(?:can ?not|can't|could not|not|no longer be|difficult to)(?: be)?(?: entirely| completely| fully| definitely)?"
    r"(?: be)? (?:exclude|rule out|excluded|ruled out)d?\b|\bnot (?:only|just|merely)\b|\bno (?:change|interval change)"
    r"(?: in| of)?\b|\bno longer (?:normal|clear)\b"
)
_DENIED_AFTER = re.compile(
    r"^[^,.;]{0,40}?\b(?:(?:is|are|was|were|has|have)(?: been)?"
    r" (?:not|no longer|absent|excluded|ruled out|resolved|cleared)|not (?:seen|identified|present|visible|evident)"
    r"|absent|resolved|excluded|ruled out)\b|^\s*:\s*(?:none|no|absent|negative)\b"
)


def present(report: str, labels: Sequence[str]) -> tuple[str, ...]:
    """The labels, in their own order, that at least one sentence of the report states without denying it."""
    sentences = [sentence for part in _SENTENCE.split(report) if (sentence := " ".join(part.lower().split()))]
    return tuple(label for label in labels if any(_states(sentence, label) for sentence in sentences))


def _states(sentence: str, label: str) -> bool:
    """True when one mention of the label in the sentence is not denied."""
    opened = _OPEN.sub(lambda match: "?" * len(match.group()), sentence)
    return any(not _denied(opened, match.start(), match.end()) for match in _pattern(label).finditer(sentence))


def _denied(sentence: str, start: int, end: int) -> bool:
    before = sentence[:start]
    turns = [match.end() for match in _TURN.finditer(before)]
    if _DENIAL.search(before, turns[-1] if turns else 0):
        return True
    after = sentence[end:]
    turn = _TURN.search(after)
    return _DENIED_AFTER.search(after[: turn.start()] if turn else after) is not None


@lru_cache(maxsize=256)
def _pattern(label: str) -> re.Pattern[str]:
    name = " ".join(label.lower().split())
    terms = (name, *SYNONYMS.get(name, ()))
    words = [_DEGREES.join(map(re.escape, term.split("~"))) for term in terms]
    return re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?:e?s)?(?!\w)")
