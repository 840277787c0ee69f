"""For tests: the listener without a network, on a clock that they set."""

import itertools
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from pydicom import Dataset
from sqlalchemy import Engine

from hilum.adapters.sql.database import reading
from hilum.adapters.sql.eventlog import SqlPublisher
from hilum.adapters.sql.tables import events
from hilum.contracts.messages import StudyReady
from hilum.ports.counts import ExpectedCounts, NoCounts
from hilum.testing.clock import SetClock
from hilum.testing.dicom_files import chest_image, write
from hilum_listener.handlers.assemble import Assembler
from hilum_listener.handlers.desk import Desk
from hilum_listener.handlers.journal import AssociationChanged, JournalWriter
from hilum_listener.handlers.notices import NoticeStore
from hilum_listener.handlers.receive import Request, Status, receive
from hilum_listener.handlers.spool import Spool
from hilum_listener.settings import AssembleSettings, Places

EXPLICIT = "1.2.840.10008.1.2.1"
START = datetime(2026, 11, 24, 12, tzinfo=UTC)
QUIET = timedelta(seconds=5)


class Listener:
    """Receives without a network, and assembles when told to."""

    def __init__(self, places: Places, engine: Engine, clock: SetClock) -> None:
        self.places, self.engine, self.clock = places, engine, clock
        self.numbers = itertools.count(1)
        self.spool = Spool(places, min_free_bytes=0)
        self.journal = JournalWriter(places.journal, started_at=clock.now())
        self.desk = Desk(NoticeStore(places), self.journal, clock.now)
        self.settings = AssembleSettings(quiet_time=QUIET)
        self.counts: ExpectedCounts = NoCounts()
        self.assembler = self.new_assembler()

    def dies(self) -> None:
        """The receiving process is killed, and another one starts."""
        self.spool.let_go()
        self.spool = Spool(self.places, min_free_bytes=0)

    def new_assembler(self) -> Assembler:
        return Assembler(
            self.places, self.settings, self.engine, SqlPublisher(self.clock), self.clock, counts=self.counts
        )

    def receive(
        self,
        dataset: Dataset | bytes,
        *,
        sop_uid: str = "",
        sop_class: str = "",
        syntax: str = "",
        over: str = "",
        calling: str = "MODALITY",
    ) -> Status:
        """As if the data set came over an association of its own, or `over` one that goes on; bytes are sent as is."""
        if isinstance(dataset, bytes):
            encoded = dataset
        else:
            path = write(self.places.data / "sent.dcm", dataset, syntax=syntax or EXPLICIT)
            encoded = encoded_dataset(path)
            sop_uid, sop_class = sop_uid or dataset.SOPInstanceUID, sop_class or dataset.SOPClassUID
        association = over or f"a-{next(self.numbers)}"
        status = receive(
            Request(sop_class, sop_uid, syntax or EXPLICIT, calling, "127.0.0.1", association),
            memoryview(encoded),
            self.spool,
            self.journal,
            now=self.clock.now,
        )
        if not over:
            self.end(association)
        return status

    def end(self, association: str, change: str = "released") -> None:
        entry = AssociationChanged(change, "MODALITY", "127.0.0.1", association, self.clock.now())
        self.journal.append(entry, sync=False)

    def image(
        self, study: str = "study", name: str = "image", *, over: str = "", calling: str = "MODALITY", **attributes: Any
    ) -> Status:
        pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
        return self.receive(chest_image(pixels, study=study, name=name, **attributes), over=over, calling=calling)

    def step(self, *, after: timedelta = timedelta(0)) -> None:
        self.clock.advance(after)
        self.assembler.step()

    def rows(self, table: sa.Table) -> list[Any]:
        with reading(self.engine) as connection:
            return list(connection.execute(sa.select(table)))

    def ready(self) -> list[StudyReady]:
        """The published study.ready messages, oldest first."""
        return [StudyReady.model_validate_json(row.payload) for row in self.rows(events) if row.topic == "study.ready"]


def stored_files(spool: Path) -> list[Path]:
    """The files that hold something, whole or not; the other names are made ahead."""
    return sorted(path for path in spool.glob("??/*.dcm") if path.stat().st_size)


def unfinished_files(spool: Path) -> list[Path]:
    """Those that no journal names: half-written ones, and a whole one whose entry is still to come."""
    journals = b"".join(path.read_bytes() for path in (spool / "journal").glob("*.jsonl"))
    return [path for path in stored_files(spool) if path.name.encode() not in journals]


def encoded_dataset(path: Path) -> bytes:
    """What follows the file meta information (PS3.10 7.1)."""
    content = path.read_bytes()
    length = int.from_bytes(content[140:144], "little")
    return content[144 + length :]
