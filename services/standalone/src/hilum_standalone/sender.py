"""A storage SCU for files: each in its own transfer syntax, in as many associations as the contexts need."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pynetdicom
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from hilum.adapters.dicom.implementation import own_entity
from hilum.adapters.dicom.requests import hold_reactor

_CONTEXTS = 128  # PS3.8 9.3.2.2: context ids are the odd numbers from 1 to 255
_MAX_PDU = 131_072
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"


@dataclass(frozen=True, slots=True)
class Target:
    ae_title: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Item:
    """A file that can be sent, as its file meta information describes it (PS3.10 7.1)."""

    path: Path
    sop_class_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file. `words` is empty for a success, else the peer's status in words or the local reason."""

    path: Path
    sent: bool
    words: str = ""


class SendError(Exception):
    """The target can't be used: no connection, association refused."""


def parse_target(text: str) -> Target:
    """`AET@HOST:PORT`, an IPv6 host in brackets.

    Raises:
        ValueError: it has another form.
    """
    title, at, address = text.rpartition("@")
    host, colon, port = address.rpartition(":")
    if not (at and colon and host and 0 < len(title) <= 16 and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"'{text}' is not of the form AET@HOST:PORT, for example HILUM@127.0.0.1:11112")
    return Target(title, host.strip("[]"), int(port))


def files_in(paths: Iterable[Path]) -> Iterator[Path]:
    """The files named, and those inside the folders named, in order of name."""
    for path in paths:
        if path.is_dir():
            yield from (inner for inner in sorted(path.rglob("*")) if inner.is_file())
        else:
            yield path


def inspect(path: Path) -> Item | Outcome | None:
    """The file as an item; an outcome with the reason when it can't be sent; None for a DICOMDIR."""
    try:
        meta = dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True).file_meta
        item = Item(path, str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID))
    except InvalidDicomError:
        return Outcome(path, False, "not a DICOM file")
    except OSError as error:
        return Outcome(path, False, f"can't be read: {error.strerror}")
    except Exception as error:  # pydicom raises what its parser trips over
        return Outcome(path, False, f"can't be read as DICOM ({type(error).__name__})")
    return None if item.sop_class_uid == _MEDIA_DIRECTORY else item


def send(
    items: Sequence[Item], target: Target, *, calling: str, done: Callable[[Outcome], None], timeout_s: float = 60.0
) -> None:
    """Sends every item and reports each through `done`.

    Raises:
        SendError: an association can't be made. What was not reported was not sent.
    """
    pynetdicom._config.STORE_SEND_CHUNKED_DATASET = True  # the bytes of the file, without a parse
    for batch in batches(items):
        association = _associate(batch, target, calling, timeout_s)
        try:
            for number, item in enumerate(batch):
                done(_send_one(association, item, number))
        finally:
            if association.is_established:
                association.release()


def batches(items: Sequence[Item]) -> list[list[Item]]:
    """Items in order of arrival, cut so that each batch needs at most 128 presentation contexts."""
    found: list[list[Item]] = []
    contexts: set[tuple[str, str]] = set()
    for item in items:
        context = (item.sop_class_uid, item.transfer_syntax_uid)
        if not found or (context not in contexts and len(contexts) == _CONTEXTS):
            found.append([])
            contexts = set()
        contexts.add(context)
        found[-1].append(item)
    return found


def _associate(batch: Sequence[Item], target: Target, calling: str, timeout_s: float) -> Association:
    entity = own_entity(calling)
    entity.acse_timeout = entity.dimse_timeout = timeout_s
    entity.connection_timeout = min(timeout_s, 10.0)
    pairs = dict.fromkeys((item.sop_class_uid, item.transfer_syntax_uid) for item in batch)
    contexts = [build_context(abstract, transfer) for abstract, transfer in pairs]
    association = entity.associate(
        target.host, target.port, contexts=contexts, ae_title=target.ae_title, max_pdu=_MAX_PDU
    )
    if association.is_established:
        return association
    where = f"{target.ae_title}@{target.host}:{target.port}"
    if association.is_rejected:
        raise SendError(f"{where} rejected the association: {_rejection(association)}")
    if association.acceptor.primitive is not None:
        raise SendError(f"{where} accepted none of the files' classes and transfer syntaxes")
    raise SendError(f"{where} does not answer; is it running, and is the port right?")


def _rejection(association: Association) -> str:
    primitive = association.acceptor.primitive
    try:
        return f"{primitive.reason_str} ({primitive.source_str}, {primitive.result_str})"  # type: ignore[union-attr]
    except (AttributeError, ValueError):
        return "no reason given"


def _send_one(association: Association, item: Item, number: int) -> Outcome:
    try:
        hold_reactor(association)
        response = association.send_c_store(item.path, msg_id=number % 65535 + 1)
    except ValueError:
        return Outcome(item.path, False, "the peer doesn't accept this class in this transfer syntax")
    except RuntimeError:
        return Outcome(item.path, False, "the association was lost")
    except (OSError, AttributeError) as error:
        return Outcome(item.path, False, f"can't be read: {type(error).__name__}")
    if "Status" not in response:
        return Outcome(item.path, False, "the association was lost before an answer came")
    status = int(response.Status)
    if status == 0x0000 or status >> 12 == 0xB:  # PS3.7 C: warnings are stored objects
        return Outcome(item.path, True)
    return Outcome(item.path, False, status_words(status, str(response.get("ErrorComment", "") or "")))


def status_words(status: int, comment: str) -> str:
    """The status of PS3.4 B.2.3 in words, with the peer's comment."""
    classes = {
        0xA7: "refused: out of resources",
        0xA9: "error: the data set does not match the class",
        0x0122: "refused: class not supported",
        0x0124: "refused: not authorised",
    }
    words = classes.get(status) or classes.get(status >> 8)
    if words is None:
        words = "error: cannot understand" if status >> 12 == 0xC else "failed"
    return f"{words} (0x{status:04X})" + (f": {comment}" if comment else "")
