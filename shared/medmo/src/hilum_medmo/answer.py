"""Token ids to text with the characters that each token made."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer

from hilum_medmo.model import Token

_REPLACEMENT = "\ufffd"
_MOST_WAITING = 8  # no UTF-8 character needs more tokens; bytes that go on longer are no text


@dataclass(slots=True)
class _Draft:
    id: int
    probability: float
    text: str = ""
    start: int = 0
    end: int = 0


class AnswerText:
    """Grows with the answer. A character whose UTF-8 bytes come from several tokens spans all of them."""

    def __init__(self, tokenizer: Tokenizer, hidden: frozenset[int]) -> None:
        """Start empty; `hidden` tokens (stop, control) add no text."""
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._drafts: list[_Draft] = []
        self._before: list[_Draft] = []  # shown last; a decoder may join or space tokens by what precedes them
        self._waiting: list[_Draft] = []
        self._text = ""

    def append(self, token: int, probability: float) -> None:
        """Add the next token."""
        draft = _Draft(token, probability, start=len(self._text), end=len(self._text))
        self._drafts.append(draft)
        if token not in self._hidden:
            self._waiting.append(draft)
            self._settle(final=len(self._waiting) == _MOST_WAITING)

    def finish(self) -> tuple[str, tuple[Token, ...]]:
        """The whole text and its tokens. Bytes that never became a character show as U+FFFD."""
        if self._waiting:
            self._settle(final=True)
        return self._text, tuple(Token(d.id, d.text, d.probability, d.start, d.end) for d in self._drafts)

    def _settle(self, *, final: bool) -> None:
        """Show what the waiting tokens say, unless they may end within a character."""
        before = self._decode(self._before)
        chunk = self._decode([*self._before, *self._waiting])[len(before) :]
        if chunk.endswith(_REPLACEMENT) and not final:
            return
        start, self._text = len(self._text), self._text + chunk
        for draft in self._waiting:
            draft.start, draft.end = start, len(self._text)
        self._waiting[-1].text = chunk
        self._before, self._waiting = self._waiting, []

    def _decode(self, drafts: list[_Draft]) -> str:
        return self._tokenizer.decode([draft.id for draft in drafts], skip_special_tokens=False)
