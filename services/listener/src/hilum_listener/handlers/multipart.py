"""The grammar of a multipart request body (RFC 2046 5.1, RFC 2387), pushed through as it arrives.

The parser is python-multipart's; here are its limits, its errors by name, and what PS3.18 8.6.1 asks of the media type.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from hilum.domain.errors import Reject

MAX_PART_HEADERS = 16
MAX_HEADER_BYTES = 2048
_MAX_MEDIA_TYPE = 1024
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")  # RFC 2046 5.1.1


class PartReceiver(Protocol):
    """Told of the parts in order. What it raises ends the parsing."""

    def part_begun(self, headers: Mapping[str, str]) -> None:
        """`headers`: by lower-case name."""

    def part_data(self, data: memoryview) -> None:
        """A piece of the part's content, valid during the call only."""

    def part_ended(self) -> None:
        """The boundary behind the part was seen, so the part is whole."""


@dataclass(frozen=True, slots=True)
class MediaType:
    """`name` and the parameters' names are in lower case."""

    name: str
    parameters: Mapping[str, str]

    @property
    def root(self) -> str:
        """The media type of the root part that a multipart/related names, without parameters, in lower case."""
        return self.parameters.get("type", "").split(";")[0].strip().lower()


def media_type(value: str) -> MediaType:
    """Splits a Content-Type value.

    Raises:
        Reject: it is longer than anyone writes it.
    """
    if len(value) > _MAX_MEDIA_TYPE:
        raise Reject("the media type is too long")
    name, parameters = parse_options_header(value)
    texts = {key.decode("latin-1").lower(): text.decode("latin-1") for key, text in parameters.items()}
    return MediaType(name.decode("latin-1").strip().lower(), texts)


class MultipartReader:
    """Takes the body in pieces of any size and tells the receiver of its parts."""

    def __init__(self, boundary: str, receiver: PartReceiver) -> None:
        """Raises `Reject` when it is no boundary."""
        raw = boundary.encode("latin-1", "replace")
        if _BOUNDARY.fullmatch(raw) is None:
            raise Reject("the media type names no usable boundary")
        self.complete = False
        """True when the closing boundary was seen."""
        self._receiver = receiver
        self._headers: dict[str, str] = {}
        self._name = self._value = b""
        callbacks: dict[str, Callable[..., None]] = {
            "on_part_begin": self._headers.clear,
            "on_header_field": self._on_name,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header,
            "on_headers_finished": lambda: self._receiver.part_begun(self._headers),
            "on_part_data": lambda data, start, end: self._receiver.part_data(memoryview(data)[start:end]),
            "on_part_end": self._receiver.part_ended,
            "on_end": self._on_end,
        }
        self._parser = MultipartParser(
            raw,
            callbacks,  # type: ignore[arg-type]  # a TypedDict there
            max_header_count=MAX_PART_HEADERS,
            max_header_size=MAX_HEADER_BYTES,
        )

    def feed(self, data: bytes) -> None:
        """Takes the next piece.

        Raises:
            Reject: it breaks the grammar or a limit; nothing more can be read.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise Reject("the multipart body is malformed") from error

    def _on_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header(self) -> None:
        name = self._name.decode("latin-1").lower()
        self._headers[name] = self._value.decode("latin-1").strip()
        self._name = self._value = b""

    def _on_end(self) -> None:
        self.complete = True
