"""Which association requests are answered without pynetdicom, and that nothing else is."""

import struct
from collections.abc import Callable
from random import Random

import pytest

from hilum.testing.hostile_files import CR, EXPLICIT
from hilum_listener.testing_pdu import VERIFICATION, associate_rq
from hilum_listener.transport.request import answer, user_information

USER = user_information(max_pdu=131072, class_uid="1.2.3", version="HILUM")
PLAIN = associate_rq([(1, CR, EXPLICIT), (5, "1.2.3.4", "1.2.840.113619.5.2")])


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


def test_a_plain_request_is_accepted_in_the_first_syntax_of_each_context() -> None:
    found = answer(PLAIN, USER)
    assert found is not None
    assert (found.called_ae, found.calling_ae) == ("HILUM", "HOSTILE")
    assert found.syntaxes == {1: EXPLICIT, 5: "1.2.840.113619.5.2"}
    assert found.pdu.endswith(USER)
    assert len(found.pdu) == 6 + int.from_bytes(found.pdu[2:6], "big")


OTHERS: dict[str, Callable[[], bytes]] = {
    "verification": lambda: associate_rq([(1, CR, EXPLICIT), (3, VERIFICATION, EXPLICIT)]),
    "storage commitment": lambda: associate_rq([(1, "1.2.840.10008.1.20.1", EXPLICIT)]),
    "a query": lambda: associate_rq([(1, "1.2.840.10008.5.1.4.1.2.2.1", EXPLICIT)]),
    "no context": lambda: associate_rq([]),
    "an even context": lambda: associate_rq([(2, CR, EXPLICIT)]),
    "a context twice": lambda: associate_rq([(1, CR, EXPLICIT), (1, CR, EXPLICIT)]),
    "no UID": lambda: associate_rq([(1, "1.2/3", EXPLICIT)]),
    "no syntax": lambda: associate_rq([(1, CR, "")]),
    "a role": lambda: associate_rq([(1, CR, EXPLICIT)], more=item(0x50, item(0x54, b"\0\0\1\1"))),
    "two user items": lambda: associate_rq([(1, CR, EXPLICIT)], more=item(0x50, item(0x51, bytes(4)))),
    "an unknown item": lambda: associate_rq([(1, CR, EXPLICIT)], more=item(0x77, b"")),
    "version 2": lambda: PLAIN[:7] + b"\2" + PLAIN[8:],
    "no called title": lambda: PLAIN[:10] + b" " * 16 + PLAIN[26:],
    "a title with a control character": lambda: PLAIN[:26] + b"A\n".ljust(16) + PLAIN[42:],
    "another context name": lambda: PLAIN.replace(b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.2"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_any_other_request_is_left_to_pynetdicom(name: str) -> None:
    assert answer(OTHERS[name](), USER) is None


def test_no_bytes_make_it_fail() -> None:
    dice = Random(7)
    for _ in range(20_000):
        request = bytearray(PLAIN)
        for _ in range(dice.randint(1, 4)):
            request[dice.randrange(len(request))] = dice.randrange(256)
        answer(bytes(request[: dice.choice([len(request), dice.randrange(7, len(request))])]), USER)
