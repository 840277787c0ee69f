"""Texts as DICOM value representations can hold them (PS3.5 6.2)."""

_PN_GROUPS = 3
_PN_COMPONENTS = 5


def one_line(text: str, limit: int = 64) -> str:
    """Text for SH and LO: no control character, no backslash (the value delimiter), at most `limit` characters."""
    plain = "".join(" " if ord(c) < 32 or c == "\x7f" else c for c in text).replace("\\", "/")
    return " ".join(plain.split())[:limit].strip()


def identifier(text: str) -> str:
    """An identifier as the images carry it: never shortened, because a shortened one names someone else."""
    return one_line(text, limit=len(text))


def lines(text: str) -> str:
    """Text for UT: lines end in CR LF; of the control characters only TAB and these remain."""
    unified = text.replace("\r\n", "\n").replace("\r", "\n")
    kept = "".join(c for c in unified if c in "\t\n" or (ord(c) >= 32 and c != "\x7f"))
    return kept.strip("\n").replace("\n", "\r\n")


def person_name(name: str) -> str:
    """A person name for PN: at most three groups of five components, 64 characters a group, no backslash."""
    groups = []
    for group in name.split("=")[:_PN_GROUPS]:
        components = [one_line(part) for part in group.split("^")]
        spare = [part for part in components[_PN_COMPONENTS:] if part]
        kept = components[:_PN_COMPONENTS]
        if spare:
            kept[-1] = " ".join([kept[-1], *spare]).strip()
        groups.append("^".join(kept)[:64].rstrip("^ "))
    return "=".join(groups).rstrip("=")
