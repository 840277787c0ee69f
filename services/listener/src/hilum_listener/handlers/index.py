"""Folds journal entries into the index: studies, series, instances, and what could not be indexed."""

import errno
import hashlib
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from hilum.adapters.dicom.header import Header, read_header
from hilum.adapters.sql.tables import instances, quarantine, removals, series, studies
from hilum.adapters.sql.upsert import insert, insert_new
from hilum.domain.errors import Reject, Retry
from hilum.domain.identity import study_key
from hilum.domain.study import OrderPriority, order_priority
from hilum.domain.worklist import RANK
from hilum.ports.instances import InstanceStore
from hilum.runtime.logs import Log
from hilum_listener.handlers.journal import InstanceReceived
from hilum_listener.handlers.own_objects import is_own
from hilum_listener.handlers.part10 import same_data_set

_LOG = Log("hilum.listener.assemble")
_UID = re.compile(r"[0-9][0-9.]{0,63}", re.ASCII)
_NOT_IMAGES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
        "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
        "1.2.840.10008.5.1.4.1.1.481.2",  # RT Dose
    }
)
"""SOP classes that carry pixels which are not what an examination looked like."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A journal entry, its digest filled in, with what its file says. Without a header, `problem` says why.

    `requested`: Hilum asked an archive for it, as an image of an earlier study.
    """

    entry: InstanceReceived
    header: Header | None
    own: bool
    problem: str
    has_data_set_of: Callable[[str], bool] = lambda _uri: False
    """Whether the file at this URI differs in its file meta information only."""
    requested: bool = False

    @property
    def is_image(self) -> bool:
        return self.header is not None and is_image(self.header.rows, self.header.sop_class_uid)


def is_image(rows: int, sop_class_uid: str) -> bool:
    return rows > 0 and sop_class_uid not in _NOT_IMAGES


def look_at(entry: InstanceReceived, store: InstanceStore) -> Arrival:
    """Reads a journaled file, outside any transaction: the whole of it for its digest, then its header.

    Raises:
        OSError: the file isn't there or can't be read.
    """
    try:
        path = store.path(entry.uri)
        sha256 = _digest(path)  # first, since the header is read by mmap: a disk error there would be a SIGBUS
        if entry.sha256 not in ("", sha256) or path.stat().st_size != entry.size:
            return Arrival(replace(entry, sha256=sha256), None, False, "the stored file is not what was received")
        entry = replace(entry, sha256=sha256)
        header = read_header(path)
        problem = _mismatch(entry, header)
        own = not problem and not is_image(header.rows, header.sop_class_uid) and is_own(path)
    except Reject as error:
        return Arrival(entry, None, False, error.reason)
    except Retry as error:
        raise FileNotFoundError(errno.ENOENT, error.reason) from error
    except OSError:
        raise
    except Exception as error:  # what a sender wrote must not stop the assembly of everyone else's studies
        _LOG.error("header not readable", uri=entry.uri, exc_info=error)
        return Arrival(entry, None, False, f"the header can't be read ({type(error).__name__})")
    return Arrival(entry, None if problem else header, own, problem, partial(_same_data_set, store, path))


def _same_data_set(store: InstanceStore, path: Path, uri: str) -> bool:
    """C-STORE carries no file meta information and STOW-RS does: one instance that comes on both ways is the same."""
    try:
        return same_data_set(path, store.path(uri))
    except (Reject, Retry, OSError):
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mismatch(entry: InstanceReceived, header: Header) -> str:
    if header.sop_instance_uid != entry.sop_instance_uid:
        return "the data set names another SOP instance than the request"
    if _UID.fullmatch(entry.transfer_syntax_uid) is None:
        return "the transfer syntax is not a UID"
    return ""


def fold(connection: Connection, arrival: Arrival) -> str:
    """Brings one arrival into the index, in the caller's transaction; the same one again changes nothing.

    Returns why it was quarantined, empty when it was not. Nothing under a known SOP Instance UID is overwritten. A
    second file of the same bytes is put down for removal, which happens after the commit.

    The caller holds the study's row if it is there (`lock_studies`).

    Raises:
        Conflict: another assembler wrote the study, series or instance first; the whole transaction is repeated.
    """
    entry, header = arrival.entry, arrival.header
    if header is None:
        return quarantine_file(connection, entry, "", arrival.problem)
    known = connection.execute(
        sa.select(instances.c.sha256, instances.c.uri).where(instances.c.sop_instance_uid == header.sop_instance_uid)
    ).one_or_none()
    study_uid = header.study_instance_uid
    if known is not None:
        _fold_again(connection, arrival, header)
        if known.sha256 == entry.sha256 or arrival.has_data_set_of(known.uri):
            _put_down(connection, entry, kept=known.uri)
            return ""
        return quarantine_file(
            connection, entry, study_uid, "other bytes under the UID of an instance that is already here"
        )
    of_series = connection.execute(
        sa.select(series.c.study_instance_uid).where(series.c.series_instance_uid == header.series_instance_uid)
    ).scalar_one_or_none()
    if of_series not in (None, study_uid):
        return quarantine_file(connection, entry, study_uid, "its series belongs to another study")
    _fold_study(connection, arrival, header)
    if of_series is None:
        insert_new(connection, series, _series_row(header))
        _note_modalities(connection, study_uid)
    insert_new(connection, instances, _instance_row(entry, header))
    return ""


def quarantine_file(connection: Connection, entry: InstanceReceived, study_uid: str, reason: str) -> str:
    """Lists the file with the reason, which is returned; the same bytes that are listed already make no second row."""
    uid = _plain(entry.sop_instance_uid)
    listed = connection.execute(
        sa.select(quarantine.c.uri).where(
            quarantine.c.sop_instance_uid == uid, quarantine.c.sha256 == entry.sha256, quarantine.c.sha256 != ""
        )
    ).scalar()
    if listed is not None:
        _put_down(connection, entry, kept=listed)
        return reason
    connection.execute(
        insert(connection, quarantine)
        .values(
            uri=entry.uri,
            sha256=entry.sha256,
            sop_instance_uid=uid,
            study_instance_uid=study_uid,
            reason=reason,
            calling_ae=_plain(entry.calling_ae)[:16],
            received_at=entry.received_at,
        )
        .on_conflict_do_nothing(index_elements=["uri"])
    )
    return reason


def _plain(text: str) -> str:
    """What a request says may be anything; the index takes no half surrogate."""
    return text.encode("ascii", "backslashreplace").decode("ascii")[:64]


def _put_down(connection: Connection, entry: InstanceReceived, *, kept: str) -> None:
    if entry.uri != kept:
        connection.execute(
            insert(connection, removals)
            .values(uri=entry.uri, reason="the same bytes as " + kept, noted_at=entry.received_at)
            .on_conflict_do_nothing(index_elements=["uri"])
        )


def _series_row(header: Header) -> dict[str, Any]:
    return {
        "series_instance_uid": header.series_instance_uid,
        "study_instance_uid": header.study_instance_uid,
        "modality": header.modality[:16],
        "body_part": header.body_part[:16],
        "description": header.series_description[:256],
    }


def _instance_row(entry: InstanceReceived, header: Header) -> dict[str, Any]:
    return {
        "sop_instance_uid": header.sop_instance_uid,
        "series_instance_uid": header.series_instance_uid,
        "study_instance_uid": header.study_instance_uid,
        "sop_class_uid": header.sop_class_uid,
        "transfer_syntax_uid": entry.transfer_syntax_uid,
        "uri": entry.uri,
        "sha256": entry.sha256,
        "size_bytes": entry.size,
        "rows": header.rows,
        "columns": header.columns,
        "frames": header.frames,
        "instance_number": header.instance_number,
        "view_position": header.view_position[:16],
        "photometric": header.photometric[:16],
        "presentation_intent": header.presentation_intent[:16],
        "received_at": entry.received_at,
    }


def _fold_study(connection: Connection, arrival: Arrival, header: Header) -> None:
    """Images open and reopen a study; others do only as long as it has no image; Hilum's own objects and what it
    requested as an earlier study never do."""
    if arrival.own or arrival.requested:
        return
    study = connection.execute(
        sa.select(studies).where(studies.c.study_instance_uid == header.study_instance_uid)
    ).one_or_none()
    received_at = arrival.entry.received_at
    has_image = _has_image(connection, header.study_instance_uid)
    if study is None:
        if arrival.is_image or not has_image:  # else it comes to an earlier study that Hilum requested
            _open_study(connection, arrival.entry, header)
        return
    changes: dict[str, Any] = {}
    conflict = _conflict(study, header)
    if conflict and not study.conflict:
        changes["conflict"] = conflict
    if arrival.is_image and not has_image:
        changes.update(_described(header))
    if arrival.is_image or not has_image:
        changes["receiving"] = True
        if not study.receiving:
            changes["receiving_since"] = received_at
        changes["last_received_at"] = max(study.last_received_at, received_at)
        changes["first_received_at"] = min(study.first_received_at, received_at)
        urgent = min(
            OrderPriority(study.order_priority), order_priority(header.order_priority_term), key=RANK.__getitem__
        )
        changes["order_priority"] = urgent.value
        if not study.description:
            changes["description"] = header.study.study_description[:256]
    if changes:
        connection.execute(
            sa.update(studies).where(studies.c.study_instance_uid == header.study_instance_uid).values(**changes)
        )


def _fold_again(connection: Connection, arrival: Arrival, header: Header) -> None:
    """An image that is here already changes nothing, but where it is here as one of an earlier study that Hilum
    requested: then somebody sends the study now, and it is a study as any other."""
    if arrival.own or arrival.requested or not arrival.is_image:
        return
    of_this = studies.c.study_instance_uid == header.study_instance_uid
    held = sa.select(instances.c.study_instance_uid).where(instances.c.sop_instance_uid == header.sop_instance_uid)
    if connection.execute(sa.select(studies.c.study_key).where(of_this)).first() is None and (
        connection.execute(held).scalar_one() == header.study_instance_uid
    ):
        _open_study(connection, arrival.entry, header)
        _note_modalities(connection, header.study_instance_uid)


def _open_study(connection: Connection, entry: InstanceReceived, header: Header) -> None:
    opened = {
        "study_instance_uid": header.study_instance_uid,
        "study_key": study_key(header.study_instance_uid),
        "revision": 0,
        "receiving": True,
        "receiving_since": entry.received_at,
        "first_received_at": entry.received_at,
        "last_received_at": entry.received_at,
        "modalities": "",
        "conflict": "",
        "calling_ae": entry.calling_ae[:16],
    }
    insert_new(connection, studies, {**opened, **_described(header)})


def _described(header: Header) -> dict[str, Any]:
    return {
        "order_priority": order_priority(header.order_priority_term).value,
        "description": header.study.study_description[:256],
        "header": asdict(header.study),
    }


def _has_image(connection: Connection, study_uid: str) -> bool:
    rows = connection.execute(
        sa.select(instances.c.sop_instance_uid)
        .where(
            instances.c.study_instance_uid == study_uid,
            instances.c.rows > 0,
            instances.c.sop_class_uid.not_in(_NOT_IMAGES),
        )
        .limit(1)
    )
    return rows.first() is not None


def _conflict(study: Any, header: Header) -> str:
    """Which identity differs from the study's first image, in words without its value; empty when none does."""
    patient, first = header.study.patient, study.header["patient"]
    pairs = (
        ("patient ids", patient.patient_id, first["patient_id"]),
        ("issuers of the patient id", patient.issuer, first["issuer"]),
        ("birth dates", patient.birth_date, first["birth_date"]),
    )
    differing = [what for what, one, other in pairs if one != other and (what == "patient ids" or (one and other))]
    return f"objects of this study name different {' and '.join(differing)}" if differing else ""


def _note_modalities(connection: Connection, study_uid: str) -> None:
    found = connection.execute(
        sa.select(series.c.modality).where(series.c.study_instance_uid == study_uid, series.c.modality != "").distinct()
    ).scalars()
    connection.execute(
        sa.update(studies)
        .where(studies.c.study_instance_uid == study_uid)
        .values(modalities="/".join(sorted(found))[:64])
    )
