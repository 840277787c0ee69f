"""For tests: reads what strace wrote of the receiving process, and says which answer left before its syncs.

A page cache survives a kill, so only the order of system calls shows that an acknowledged instance survives a power
cut. What counts is the order of the log's lines: a call that was split into `<unfinished ...>` and `resumed` begins at
the one and ends at the other.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

OPTIONS = (
    "-f", "-y", "-ttt", "-xx", "-s", "2048", "-e",
    "trace=write,writev,pwrite64,pwritev,fdatasync,fsync,open,openat,creat,rename,renameat,renameat2,link,linkat,mkdir,mkdirat,"
    "sendto,sendmsg,recvfrom",
)  # fmt: skip
_LINE = re.compile(r"(?P<pid>\d+) +(?P<time>[\d.]+) (?P<rest>.*)")
_CALL = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+|\?)")
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>(?P<rest>.*)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FD = re.compile(r"\d+<(.*?)>")
_WRITES = frozenset({"write", "writev", "pwrite64", "pwritev"})
_SYNCS = frozenset({"fdatasync", "fsync"})
_CREATES = frozenset({"open", "openat", "creat"})
_NAMES = frozenset({"create", "rename", "renameat", "renameat2", "link", "linkat"})
_STORE_RESPONSE = b"\0\0\0\x01\x02\0\0\0\x01\x80"  # Command Field (0000,0100) of a C-STORE-RSP, PS3.7 table E.1-1
_STATUS = b"\0\0\0\x09\x02\0\0\0"
_INSTANCE = b"\0\0\0\x10"


@dataclass(frozen=True, slots=True)
class Call:
    """One system call that succeeded; `begin` and `end` count the log's lines. `strings` are its string arguments.

    Opening a file that may be new is named `create`; opening another is left out.
    """

    name: str
    begin: int
    end: int
    file: str
    strings: tuple[bytes, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(one.decode() for one in self.strings)


def calls(log: Iterable[str]) -> list[Call]:
    """The calls in the order of their ends."""
    found: list[Call] = []
    open_calls: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(log):
        match = _LINE.match(line)
        if match is None:
            continue
        pid, rest, begin = match["pid"], match["rest"], number
        if rest.endswith("<unfinished ...>"):
            open_calls[pid] = (number, rest.removesuffix("<unfinished ...>").rstrip())
            continue
        if resumed := _RESUMED.match(rest):
            begin, start = open_calls.pop(pid)
            rest = start + resumed["rest"]
        call = _CALL.match(rest)
        if call is None or not call["result"].isdigit():
            continue
        name, arguments = call["name"], call["arguments"]
        if name in _CREATES:
            if "O_CREAT" not in arguments:
                continue
            name = "create"
        file = _FD.match(arguments)
        strings = tuple(_plain(text) for text in _STRING.findall(arguments))
        found.append(Call(name, begin, number, _plain(file[1]).decode() if file else "", strings))
    return found


def _plain(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


@dataclass(frozen=True, slots=True)
class Answer:
    """A C-STORE response with success that left in the call `sent`."""

    sop_instance_uid: str
    sent: Call


def answers(of: Iterable[Call]) -> list[Answer]:
    found = []
    for call in of:
        content = b"".join(call.strings)
        if not call.file.startswith(("socket:", "TCP:")) or _STORE_RESPONSE not in content:
            continue
        if content.partition(_STATUS)[2][:2] != b"\0\0":
            continue
        behind = content.partition(_INSTANCE)[2]
        length = int.from_bytes(behind[:4], "little")
        found.append(Answer(behind[4 : 4 + length].rstrip(b"\0").decode(), call))
    return found


def too_early(data: Path, of: list[Call]) -> list[str]:
    """What was not durable yet when an answer left; empty when everything was."""
    return [f"{missing} (answer in line {a.sent.begin})" for a in answers(of) for missing in _missing(data, of, a)]


def _missing(data: Path, of: list[Call], answer: Answer) -> list[str]:
    before = [call for call in of if call.end < answer.sent.begin]
    named = f'"sop_instance_uid":"{answer.sop_instance_uid}"'.encode()
    entry = next((c for c in before if c.name in _WRITES and named in b"".join(c.strings)), None)
    if entry is None:
        return ["its journal entry was not written"]
    key = re.search(rb'"uri":"spool:([^"]+)"', b"".join(entry.strings))
    assert key is not None
    path = data / "spool" / key[1].decode()
    missing = [] if _synced(before, entry.file, after=entry) else ["its journal entry was not synced"]
    missing += _unnamed(before, path, "file") + _unnamed(before, Path(entry.file), "journal")
    until = [call for call in before if call.end < entry.begin]
    written = [call for call in until if call.name in _WRITES and call.file == str(path)]
    if not written or not _synced(until, str(path), after=written[-1]):
        missing.append("its data was not synced before its entry was written")
    return missing


def _unnamed(before: list[Call], path: Path, what: str) -> list[str]:
    """The folders on the way to the path, made in this run or not, whose newest entry was not synced."""
    named_by = _naming(before, path)
    if named_by is None:
        return [f"its {what} has no name"]
    missing = [] if _synced(before, str(path.parent), after=named_by) else [f"the folder of its {what} was not synced"]
    for call in before:
        if call.name.startswith("mkdir") and call.paths and path.is_relative_to(call.paths[0]):
            above = str(Path(call.paths[0]).parent)
            if not _synced(before, above, after=call):
                missing.append(f"the folder above that of its {what} was not synced")
    return missing


def _naming(before: list[Call], path: Path) -> Call | None:
    return next((c for c in before if c.name in _NAMES and c.paths[-1] == str(path)), None)


def _synced(before: list[Call], file: str, *, after: Call) -> bool:
    return any(c.name in _SYNCS and c.file == file and c.begin > after.end for c in before)
