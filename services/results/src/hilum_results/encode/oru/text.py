"""HL7 v2 texts: escapes, names, coded elements. Delimiters are the usual `|^~\\&`."""

from hilum_results.encode.terminology import Code

_ESCAPES = {"|": "\\F\\", "^": "\\S\\", "~": "\\R\\", "\\": "\\E\\", "&": "\\T\\"}  # HL7 2.5.1 2.7.1
_LETTERS = {"F": "|", "S": "^", "R": "~", "E": "\\", "T": "&"}


def escape(text: str) -> str:
    """One line of text without a character that HL7 would read as structure; other characters stay as they are."""
    plain = "".join(c if ord(c) >= 32 and c != "\x7f" else " " for c in text)
    return "".join(_ESCAPES.get(c, c) for c in plain).strip()


def unescape(text: str) -> str:
    parts = text.split("\\")
    if len(parts) % 2 == 0:
        return text
    return "".join(_LETTERS.get(part, "") if index % 2 else part for index, part in enumerate(parts))


def text_lines(text: str) -> str:
    """TX: each line is a repetition (HL7 2.5.1 2.A.78); empty lines stay, as `""` would delete a value."""
    unified = text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    return "~".join(escape(line) for line in unified.split("\n"))


def coded(code: Code, original: str = "") -> str:
    """CWE: identifier, text, coding system, and the original text in CWE-9."""
    base = "^".join((escape(code.value), escape(code.meaning), escape(_TABLE_0396.get(code.scheme, code.scheme))))
    return f"{base}^^^^^^{escape(original)}" if original else base


_TABLE_0396 = {"DCM": "DCM", "SCT": "SCT", "LN": "LN", "UCUM": "UCUM", "99HILUM": "99HILUM"}


def person_names(name: str) -> str:
    """XPN from a DICOM person name. HL7 has the suffix before the prefix, DICOM after it (2.5.1 2.A.88, PS3.5 6.2.1).

    The groups of a DICOM name are alphabetic, ideographic and phonetic: XPN-8 says which, as repetitions.
    """
    names = []
    for representation, group in zip("AIP", name.split("="), strict=False):
        family, given, middle, prefix, suffix = (*(escape(part) for part in group.split("^")), "", "", "", "", "")[:5]
        if any((family, given, middle, prefix, suffix)):
            names.append("^".join((family, given, middle, suffix, prefix, "", "L", representation)))
    return "~".join(names)


def physician(name: str) -> str:
    """XCN with the name alone: family, given, middle, suffix, prefix from the second component on."""
    family, given, middle, prefix, suffix = (
        *(escape(part) for part in name.split("=")[0].split("^")),
        "",
        "",
        "",
        "",
        "",
    )[:5]
    parts = ("", family, given, middle, suffix, prefix)
    return "^".join(parts).rstrip("^") if any(parts) else ""
