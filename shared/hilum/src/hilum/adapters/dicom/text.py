"""Decodes DICOM text: code extensions, stand-alone multi-byte sets, and declarations that are wrong.

Nothing here raises: what cannot be decoded becomes U+FFFD and a problem in words. The file keeps its bytes.
"""

import re
from dataclasses import dataclass, field

# PS3.3 C.12.1.1.2: defined terms without code extensions and the stand-alone multi-byte ones
_SINGLE = {
    "6": "ascii",
    "13": "shift_jis",  # JIS X 0201 is the single-byte part of it
    "100": "latin_1",
    "101": "iso8859_2",
    "109": "iso8859_3",
    "110": "iso8859_4",
    "126": "iso8859_7",
    "127": "iso8859_6",
    "138": "iso8859_8",
    "144": "iso8859_5",
    "148": "iso8859_9",
    "166": "iso8859_11",
    "203": "iso8859_15",
}
_MULTI = {"87": "iso2022_jp", "159": "iso2022_jp_2", "149": "euc_kr", "58": "gb2312"}
_STAND_ALONE = {"ISO_IR 192": "utf_8", "GB18030": "gb18030", "GBK": "gbk"}

# PS3.3 tables C.12-3 and C.12-4: escape sequence -> registration number
_ESCAPES = {
    b"\x1b(B": "6",
    b"\x1b(J": "13",
    b"\x1b)I": "13",
    b"\x1b-A": "100",
    b"\x1b-B": "101",
    b"\x1b-C": "109",
    b"\x1b-D": "110",
    b"\x1b-F": "126",
    b"\x1b-G": "127",
    b"\x1b-H": "138",
    b"\x1b-L": "144",
    b"\x1b-M": "148",
    b"\x1b-T": "166",
    b"\x1b-b": "203",
    b"\x1b$B": "87",
    b"\x1b$(D": "159",
    b"\x1b$)C": "149",
    b"\x1b$)A": "58",
}
_FRAGMENT = re.compile(rb"\x1b[^\x1b]*|[^\x1b]+", re.DOTALL)
_KEEPS_ESCAPE = frozenset({"87", "159"})  # Python's ISO 2022 codecs read the escape sequence themselves
_RESETS = re.compile(rb"[\^=\r\n\t\f]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


@dataclass
class TextDecoder:
    """Decodes the text elements of one dataset and remembers what was wrong.

    Attributes:
        terms: values of Specific Character Set (0008,0005), normalised.
        problems: what was wrong, in words without any of the text.
    """

    terms: tuple[str, ...]
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, declared: bytes) -> "TextDecoder":
        """For the raw value of Specific Character Set; empty means the default repertoire."""
        values = declared.decode("ascii", "replace").split("\\")
        return cls(tuple(_normalised(value) for value in values))

    @property
    def problem(self) -> str:
        """Every problem so far in one line, empty when there was none."""
        return "; ".join(dict.fromkeys(self.problems))

    def text(self, raw: bytes, *, max_chars: int = 256) -> str:
        """One value: padding and control characters removed, at most `max_chars` characters."""
        plain = raw.isascii() and b"\x1b" not in raw
        decoded = raw.decode("ascii") if plain else self._decode(raw.rstrip(b"\0 "))
        return _CONTROL.sub(" ", decoded.rstrip("\0 ")).strip()[:max_chars].rstrip()

    def _decode(self, raw: bytes) -> str:
        first = self.terms[0] if self.terms else ""
        if first in _STAND_ALONE:
            return self._strict(raw, _STAND_ALONE[first], first)
        if b"\x1b" in raw:
            return "".join(self._fragment(match.group()) for match in _FRAGMENT.finditer(raw))
        return self._first(raw)

    def _first(self, raw: bytes) -> str:
        """Bytes without an escape sequence: the first declared set."""
        term = self.terms[0] if self.terms else ""
        number = _number(term)
        if term and number not in _SINGLE and number not in _MULTI:
            self.problems.append(f"character set {term!r} is not known")
            return self._guess(raw)
        codec = _SINGLE.get(number) or _MULTI.get(number, "ascii")
        if codec != "ascii":
            if number in _SINGLE and number != "13" and _is_utf_8(raw):
                self.problems.append(f"text declared as {term} looks like UTF-8")
            return self._strict(raw, codec, term)
        if not raw.isascii():
            self.problems.append("the text is not ASCII and no character set for it is declared")
        return self._guess(raw)

    def _fragment(self, fragment: bytes) -> str:
        if not fragment.startswith(b"\x1b"):
            return self._first(fragment)
        escape = fragment[: 4 if fragment[1:3] in (b"$(", b"$)") else 3]
        number = _ESCAPES.get(escape)
        if number is None:
            self.problems.append("an escape sequence of no DICOM character set")
            return self._guess(fragment[1:])
        if number != "6" and number not in {_number(term) for term in self.terms}:
            self.problems.append(f"an escape to ISO-IR {number}, which is not declared")
        codec = _SINGLE.get(number) or _MULTI[number]
        if number in _KEEPS_ESCAPE:
            return self._strict(fragment, codec, f"ISO-IR {number}")
        body = fragment[len(escape) :]
        reset = _RESETS.search(body)  # PS3.5 6.1.2.5.3: delimiters end a designation
        if reset is None:
            return self._strict(body, codec, f"ISO-IR {number}")
        head = self._strict(body[: reset.start()], codec, f"ISO-IR {number}")
        tail = body[reset.start() :]
        if tail.isascii():
            return head + tail.decode("ascii")
        return head + (self._strict(tail, codec, f"ISO-IR {number}") if number in _MULTI else self._first(tail))

    def _strict(self, raw: bytes, codec: str, name: str) -> str:
        try:
            return raw.decode(codec)
        except UnicodeDecodeError:
            self.problems.append(f"the text is not valid in the declared character set {name}")
            return raw.decode(codec, "replace")

    def _guess(self, raw: bytes) -> str:
        """Text in an undeclared set: multi-byte UTF-8 is unmistakable, everything else is replaced."""
        return raw.decode("utf_8" if _is_utf_8(raw) else "ascii", "replace")


def _is_utf_8(raw: bytes) -> bool:
    if raw.isascii():
        return False
    try:
        raw.decode("utf_8")
    except UnicodeDecodeError:
        return False
    return True


def _normalised(term: str) -> str:
    """`ISO-IR 100`, `iso_ir_100` and the like to the standard's spelling; others bounded and printable."""
    term = " ".join(term.strip("\0 ").upper().split())
    if match := re.fullmatch(r"ISO[ _-]?IR[ _-]?(\d{1,3})", term):
        return f"ISO_IR {match.group(1)}"
    if match := re.fullmatch(r"ISO[ _-]?2022[ _-]?(?:IR[ _-]?)?(\d{1,3}|GBK)", term):
        return "GBK" if match.group(1) == "GBK" else f"ISO 2022 IR {match.group(1)}"
    if term in {"UTF8", "UTF-8", "ISO 10646"}:
        return "ISO_IR 192"
    return re.sub(r"[^\x20-\x7e]", "?", term)[:32]


def _number(term: str) -> str:
    """The registration number of a defined term; the default repertoire is 6 (PS3.3 C.12.1.1.2)."""
    return term.rsplit(" ", 1)[-1] if term.startswith(("ISO_IR ", "ISO 2022 IR ")) else (term or "6")
