"""A MedMO that says what a test told it to."""

from __future__ import annotations

from collections.abc import Callable

from hilum_medmo.model import Finish, Generation, ModelIdentity, Request, Timings, Token

SCRIPTED_IDENTITY = ModelIdentity(
    name="MedMO-Scripted",
    version="0",
    digest="0" * 64,
    simulation=True,
    disclaimer="A scripted answer for tests, not for patients.",
)


def answer(text: str, probability: float = 0.9, finish: Finish = "stop") -> Generation:
    """A generation of this text, one token a character, each with this probability."""
    tokens = [Token(ord(letter), letter, probability, at, at + 1) for at, letter in enumerate(text)]
    if finish == "stop":
        tokens.append(Token(0, "", probability, len(text), len(text)))
    return Generation(text, tuple(tokens), finish, Timings(0.0, 0.0, 0.0))


class ScriptedMedMO:
    """Answers each prompt from a table and keeps the requests it got.

    An unknown prompt is a KeyError: a test that asks what it did not script is wrong. An exception in the table is
    raised instead of returned. A request whose `should_stop` is already true comes back cancelled and empty.
    """

    def __init__(
        self, answers: dict[str, str | Generation | Exception], identity: ModelIdentity = SCRIPTED_IDENTITY
    ) -> None:
        """`answers`: prompt → text, generation or exception."""
        self._answers = answers
        self._identity = identity
        self.requests: list[Request] = []

    @property
    def identity(self) -> ModelIdentity:
        """The identity it was given."""
        return self._identity

    def generate(self, request: Request, *, should_stop: Callable[[], bool] | None = None) -> Generation:
        """The scripted answer to `request.prompt`."""
        self.requests.append(request)
        if should_stop is not None and should_stop():
            return answer("", finish="cancelled")
        scripted = self._answers[request.prompt]
        if isinstance(scripted, Exception):
            raise scripted
        return answer(scripted) if isinstance(scripted, str) else scripted
