"""A-ASSOCIATE-RQ in its plainest form, read and answered as bytes (PS3.8 9.3.2 and 9.3.3).

Plain is: nothing but storage classes, private and unknown ones included, and no item of the user information beside
maximum length and implementation. Whatever isn't is left to pynetdicom, and so is every rejection.
"""

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from pydicom.uid import UID
from pynetdicom import sop_class
from pynetdicom.sop_class import _STORAGE_CLASSES

A_ASSOCIATE_RQ, A_RELEASE_RQ, A_ABORT = 1, 5, 7
RELEASED = b"\6\0\0\0\0\4\0\0\0\0"
ABORTED = b"\7\0\0\0\0\4\0\0\0\0"
ABORTED_BY_PROVIDER = b"\7\0\0\0\0\4\0\0\2\0"
_FIXED = 74
"""Header, protocol version, AE titles and reserved bytes."""
_CONTEXT_NAME = b"1.2.840.10008.3.1.1.1"
_UID = re.compile(rb"[0-9.]{1,64}")
_TITLE = re.compile(rb"[ !-\[\]-~]{16}")  # PS3.5 6.2, VR AE: no backslash, no control character
_KEPT_BYTES, _KEPT = 1 << 12, 1 << 10
_CONTEXTS = 128
_VERSION = bytes(16)
_head = struct.Struct(">BxH").unpack_from


@dataclass(frozen=True, slots=True)
class Answer:
    """What is accepted. `syntaxes`: the transfer syntax by context; `pdu`: the whole A-ASSOCIATE-AC."""

    called_ae: str
    calling_ae: str
    syntaxes: Mapping[int, str]
    pdu: bytes


def user_information(*, max_pdu: int, class_uid: str, version: str) -> bytes:
    """The item in which this side names itself (PS3.8 D.1, PS3.7 D.3.3.2)."""
    return _item(
        0x50,
        _item(0x51, struct.pack(">I", max_pdu)) + _item(0x52, class_uid.encode()) + _item(0x55, version.encode()),
    )


def answer(request: bytes, user: bytes) -> Answer | None:
    """The acceptance of a whole A-ASSOCIATE-RQ; None when it isn't plain, or in any way wrong.

    `user`: of `user_information`.
    """
    called, calling = request[10:26], request[26:42]
    if request[6:8] != b"\0\1" or not (_TITLE.fullmatch(called) and _TITLE.fullmatch(calling)):
        return None
    called, calling = called.strip(), calling.strip()
    if not called or not calling:
        return None
    try:
        accepted = _accepted(request)
    except (struct.error, ValueError):
        return None
    if accepted is None:
        return None
    items = b"".join(
        _item(0x21, bytes((number, 0, 0, 0)) + _item(0x40, syntax)) for number, syntax in sorted(accepted.items())
    )
    body = b"\0\1\0\0" + called.ljust(16) + calling.ljust(16) + bytes(32) + _item(0x10, _CONTEXT_NAME) + items + user
    syntaxes = {number: syntax.decode() for number, syntax in accepted.items()}
    return Answer(called.decode(), calling.decode(), syntaxes, struct.pack(">BxI", 2, len(body)) + body)


def _accepted(request: bytes) -> dict[int, bytes] | None:
    accepted: dict[int, bytes] = {}
    others = []
    for kind, item in _items(request[_FIXED:]):
        if kind == 0x20:
            syntax = _kept_syntax(item[4:]) if len(item) <= _KEPT_BYTES else _syntax(item[4:])
            if syntax is None or not item[0] % 2 or item[0] in accepted or len(accepted) == _CONTEXTS:
                return None
            accepted[item[0]] = syntax
        else:
            others.append((kind, item))
    if sorted(kind for kind, _ in others) != [0x10, 0x50] or not accepted:
        return None
    named = dict(others)
    return accepted if named[0x10] == _CONTEXT_NAME and _is_plain(named[0x50]) else None


def _is_plain(user: bytes) -> bool:
    items = dict(_items(user))
    return {0x51, 0x52} <= items.keys() <= {0x51, 0x52, 0x55} and (
        len(items[0x51]) == 4
        and _UID.fullmatch(items[0x52]) is not None
        and len(items.get(0x55, b"HILUM")) in range(1, 17)
    )


def _syntax(content: bytes) -> bytes | None:
    """The first transfer syntax of a presentation context for a storage class; None for any other context."""
    abstract: list[bytes] = []
    syntaxes: list[bytes] = []
    for kind, uid in _items(content):
        if kind not in (0x30, 0x40) or _UID.fullmatch(uid) is None:
            return None
        (abstract if kind == 0x30 else syntaxes).append(uid)
    return syntaxes[0] if len(abstract) == 1 and syntaxes and _is_stored(abstract[0].decode()) else None


_kept_syntax = lru_cache(_KEPT)(_syntax)


def _is_stored(class_uid: str) -> bool:
    """As pynetdicom's unrestricted storage service tells storage from the rest (`negotiate_unrestricted`)."""
    uid = UID(class_uid)
    return uid.is_private or uid in _STORAGE_CLASSES.values() or not hasattr(sop_class, uid.keyword)


def _items(content: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(content):
        kind, length = _head(content, at)
        at += 4 + length
        if at > len(content):
            raise ValueError("longer than what it is in")
        yield kind, content[at - length : at]


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content
