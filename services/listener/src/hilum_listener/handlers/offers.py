"""Where the role that reports commitments offers each report to the association that asked for it.

Only the receiving process has that association, and only the index knows what the report says; both meet in a folder.
One rename decides who sends: the receiving process takes the offer, or the reporting role withdraws it.
"""

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_KEY = re.compile(r"([0-9a-f]{40})-(\d{1,9})")


@dataclass(frozen=True, slots=True)
class Offer:
    """`key` stands for the request and the attempt, `report` is that of `commitment_requests`."""

    key: str
    association: str
    transaction_uid: str
    report: Mapping[str, Any]


def key_of(notice: str, token: int) -> str:
    return f"{notice}-{token}"


class Offers:
    """`run/reports/<key>.offer`, `.taken`, then `.delivered` or `.failed`. Nothing here has to survive a power cut."""

    def __init__(self, run: Path) -> None:
        self._folder = run / "reports"

    # the reporting role's side

    def make(self, offer: Offer) -> None:
        """Raises OSError when the folder can't be written."""
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f"{offer.key}.{os.getpid()}"
        values = {"association": offer.association, "transaction_uid": offer.transaction_uid, "report": offer.report}
        temporary.write_text(json.dumps(values))
        temporary.rename(self._file(offer.key, "offer"))

    def withdraw(self, key: str) -> bool:
        """True when nobody has taken it, and nobody will."""
        try:
            self._file(key, "offer").unlink()
        except FileNotFoundError:
            return False
        return True

    def outcome(self, key: str) -> bool | None:
        """Whether the taker delivered it; None as long as that isn't known."""
        if self._file(key, "delivered").exists():
            return True
        return False if self._file(key, "failed").exists() else None

    def was_delivered(self, notice: str) -> bool:
        """By any attempt, also one whose outcome a kill kept from the index."""
        return any(self._folder.glob(f"{notice}-*.delivered"))

    def clear(self, notice: str) -> None:
        for path in self._folder.glob(f"{notice}-*"):
            with suppress(OSError):
                path.unlink(missing_ok=True)

    # the receiving process's side

    def pending(self) -> list[Offer]:
        """The offers that nobody has taken yet."""
        found = []
        for path in sorted(self._folder.glob("*.offer")):
            if _KEY.fullmatch(path.stem) is None:
                continue
            with suppress(OSError, ValueError, KeyError):  # withdrawn meanwhile
                values = json.loads(path.read_text())
                found.append(Offer(path.stem, values["association"], values["transaction_uid"], values["report"]))
        return found

    def take(self, key: str) -> bool:
        """True when this process sends it now."""
        return self._rename(key, "offer", "taken")

    def settle(self, key: str, *, delivered: bool) -> None:
        self._rename(key, "taken", "delivered" if delivered else "failed")

    def _rename(self, key: str, before: str, after: str) -> bool:
        try:
            self._file(key, before).rename(self._file(key, after))
        except FileNotFoundError:
            return False
        return True

    def _file(self, key: str, state: str) -> Path:
        if _KEY.fullmatch(key) is None:
            raise ValueError("not the key of an offer")
        return self._folder / f"{key}.{state}"
