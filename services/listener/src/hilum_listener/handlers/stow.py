"""One STOW-RS request (PS3.18 10.5): the parts of its body in, an outcome for each instance out.

Each part goes to the store as it arrives; a part that is refused never costs its neighbours anything.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Protocol

from hilum.domain.errors import Reject
from hilum_listener.handlers.multipart import MultipartReader, media_type
from hilum_listener.handlers.part10 import Identity, identify

DICOM = "application/dicom"
MAX_PARTS = 20_000
HEAD_BYTES = 1 << 21
"""What a part is must be said in so many bytes from its start. The file meta information is enough for that."""
_FIRST_LOOK_BYTES = 1 << 16
_PREFIX_END = 132  # PS3.10 7.1
_NOTHING = Identity("", "", "", "")


class Failure(IntEnum):
    """Failure Reason (0008,1197): PS3.18 table I.2-2, whose A9xx has no word for another study than the URL's."""

    OUT_OF_RESOURCES = 0xA700
    DOES_NOT_MATCH_SOP_CLASS = 0xA900
    OTHER_STUDY = 0xA901
    CANNOT_UNDERSTAND = 0xC000


class StoreWarning(IntEnum):
    """Warning Reason (0008,1196): PS3.18 table I.2-1. Stored all the same, for the index to judge."""

    DOES_NOT_MATCH_SOP_CLASS = 0xB007


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one part. Without a failure it is durable; UIDs that nobody could read are empty."""

    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    failure: Failure | None = None
    warning: StoreWarning | None = None


class Draft(Protocol):
    """A file that nobody sees yet."""

    def write(self, data: memoryview) -> None:
        """Raises `OSError` when it can't."""

    def keep(self, identity: Identity) -> Callable[[], None]:
        """Begins to make the file durable and to journal it. What it returns waits until both are done.

        Raises:
            OSError: so does what it returns. The file isn't stored, and nothing of it stays.
        """

    def abandon(self) -> None:
        """Removes it; does nothing when it is gone already."""


class Store(Protocol):
    """Where instances go."""

    def begin(self) -> Draft:
        """Raises `OSError` when nothing can be stored now."""


class _Part:
    """The part that is being received."""

    def __init__(self) -> None:
        self.draft: Draft | None = None
        self.failure: Failure | None = None
        self.identity = _NOTHING
        self.head = bytearray()
        self.size = 0

    def fail(self, failure: Failure) -> None:
        self.failure = self.failure or failure
        draft, self.draft = self.draft, None
        if draft is not None:
            draft.abandon()

    def look(self) -> bool:
        """Reads the UIDs from what is there; False when it can't be read, or not yet."""
        try:
            self.identity = identify(bytes(self.head))
        except Reject:
            return False
        return True

    @property
    def warning(self) -> StoreWarning | None:
        """The index will quarantine it, or its pixels are not all there."""
        without_study = not self.identity.study_instance_uid and self.size <= HEAD_BYTES
        cut = self.identity.declared_end > self.size
        return StoreWarning.DOES_NOT_MATCH_SOP_CLASS if self.identity.unreadable or without_study or cut else None


class Transaction:
    """Not for use by two threads at once, but `close` may be called at any time.

    While one part is made durable, the next is received already; `finish` waits for all of them.
    """

    def __init__(self, boundary: str, store: Store, *, study_instance_uid: str = "") -> None:
        """`study_instance_uid`: the only one that is taken; empty takes any.

        Raises:
            Reject: this is no boundary.
        """
        self.outcomes: list[Outcome] = []
        """One for each part, in order; final once the transaction is finished."""
        self._kept: dict[int, Callable[[], None]] = {}
        self._store = store
        self._study_instance_uid = study_instance_uid
        self._reader = MultipartReader(boundary, self)
        self._part: _Part | None = None
        self._count = 0
        self._closed = False
        self._lock = threading.Lock()

    def feed(self, data: bytes) -> None:
        """Takes the next piece of the body, of any size.

        Raises:
            Reject: nothing behind this can be read. What was stored before stays.
        """
        with self._lock:
            if not self._closed:
                self._reader.feed(data)

    def finish(self, failure: Failure = Failure.CANNOT_UNDERSTAND) -> None:
        """The body has ended, or no more of it is read; what is missing then counts as this failure."""
        with self._lock:
            if self._part is not None:
                if not self._part.identity.is_complete:
                    self._part.look()
                self._part.fail(failure)
                self._end_part()
            elif not self._reader.complete:
                self.outcomes.append(Outcome(failure=failure))
            self._settle()

    def close(self) -> None:
        """Removes a half-received part. Waits for a `feed` that runs in another thread, and for what is being kept."""
        with self._lock:
            if self._part is not None:
                self._part.fail(Failure.CANNOT_UNDERSTAND)
            self._part = None
            self._settle()

    def _settle(self) -> None:
        self._closed = True
        for index, durable in self._kept.items():
            try:
                durable()
            except (OSError, MemoryError):
                self.outcomes[index] = replace(self.outcomes[index], failure=Failure.OUT_OF_RESOURCES, warning=None)
        self._kept.clear()

    def part_begun(self, headers: Mapping[str, str]) -> None:
        self._count += 1
        if self._count > MAX_PARTS:
            raise Reject(f"more than {MAX_PARTS} parts in one request")
        self._part = part = _Part()
        encoding = headers.get("content-transfer-encoding", "binary").lower()
        if media_type(headers.get("content-type", DICOM)).name != DICOM or encoding not in ("binary", "8bit"):
            part.fail(Failure.CANNOT_UNDERSTAND)
        else:
            try:
                part.draft = self._store.begin()
            except (OSError, MemoryError):
                part.fail(Failure.OUT_OF_RESOURCES)

    def part_data(self, data: memoryview) -> None:
        part = self._part
        assert part is not None
        before, part.size = part.size, part.size + len(data)
        if not part.identity.is_complete and before < HEAD_BYTES:
            part.head += data[: HEAD_BYTES - before]
            self._look_early(part, before)
        if part.draft is not None:
            try:
                part.draft.write(data)
            except (OSError, MemoryError):
                part.fail(Failure.OUT_OF_RESOURCES)

    def part_ended(self) -> None:
        part = self._part
        assert part is not None
        if not part.identity.is_complete and not part.look():
            part.fail(Failure.CANNOT_UNDERSTAND)
        self._judge(part)
        if part.failure is None and not self._may_stay(part):
            part.fail(Failure.CANNOT_UNDERSTAND)
        if part.draft is not None:
            try:
                self._kept[len(self.outcomes)] = part.draft.keep(part.identity)
            except (OSError, MemoryError):
                part.fail(Failure.OUT_OF_RESOURCES)
        self._end_part()

    def _look_early(self, part: _Part, before: int) -> None:
        """Refuses as soon as it can be known that a part is not wanted; lets go of the head once it is read."""
        if before < _PREFIX_END <= part.size and part.head[128:_PREFIX_END] != b"DICM":
            part.fail(Failure.CANNOT_UNDERSTAND)
        if before < _FIRST_LOOK_BYTES <= part.size and part.look() and part.identity.is_complete:
            self._judge(part)
            part.head = bytearray()

    def _may_stay(self, part: _Part) -> bool:
        """As C-STORE has it: what is named and has a data set is kept, and what that is worth the index says. In a
        request for one study, a part must say which one it is of as well."""
        named = part.identity.is_complete if self._study_instance_uid else part.identity.is_named
        return named and part.size > part.identity.data_set_at

    def _judge(self, part: _Part) -> None:
        if part.identity.contradictory:
            part.fail(Failure.DOES_NOT_MATCH_SOP_CLASS)
        wanted, is_of = self._study_instance_uid, part.identity.study_instance_uid
        if wanted and is_of and wanted != is_of:
            part.fail(Failure.OTHER_STUDY)

    def _end_part(self) -> None:
        part, self._part = self._part, None
        assert part is not None
        warning = part.warning if part.failure is None else None
        uids = part.identity.sop_class_uid, part.identity.sop_instance_uid
        self.outcomes.append(Outcome(*uids, failure=part.failure, warning=warning))


class _Nowhere:
    """Keeps nothing; draft and store in one."""

    def begin(self) -> Draft:
        return self

    def write(self, data: memoryview) -> None:
        pass

    def abandon(self) -> None:
        pass

    def keep(self, identity: Identity) -> Callable[[], None]:
        return lambda: None


def examine(content_type: str, body: Iterable[bytes], *, study_instance_uid: str = "") -> list[Outcome]:
    """What a request with this media type and this body, in pieces, would come to. Stores nothing; for fuzzing.

    Raises:
        Reject: not even the media type can be used.
    """
    transaction = Transaction(boundary_of(content_type), _Nowhere(), study_instance_uid=study_instance_uid)
    try:
        for piece in body:
            transaction.feed(piece)
    except Reject:
        pass
    transaction.finish()
    return transaction.outcomes


def boundary_of(content_type: str) -> str:
    """The boundary of a body of DICOM files (PS3.18 8.6.1.2).

    Raises:
        Reject: it is another media type. The metadata and bulk data variants of STOW are among those not taken.
    """
    given = media_type(content_type)
    if given.name != "multipart/related":
        raise Reject('the body must be multipart/related; type="application/dicom"')
    if given.root not in (DICOM, ""):
        raise Reject('only type="application/dicom" is taken, not metadata with bulk data')
    return given.parameters.get("boundary", "")
