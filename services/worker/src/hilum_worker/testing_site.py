"""For tests: a data folder with a database, stored images and requests about them, and worker processes on it."""

import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy import Engine

from hilum.adapters.dicom.header import read_header
from hilum.adapters.sql.database import database_path, open_database, reading, transaction
from hilum.adapters.sql.eventlog import SqlPublisher
from hilum.adapters.sql.schema import migrate
from hilum.adapters.sql.tables import events, jobs
from hilum.contracts.messages import FindingsProduced, InferenceRequested, StudyEnded
from hilum.domain.identity import digest_of, study_key
from hilum.domain.inference import ImageReference, InferenceRequest, Lane, Task, TaskKind
from hilum.ports.clock import SystemClock
from hilum.ports.events import Outgoing
from hilum.testing.dicom_files import chest_image, write
from hilum.testing.external import Process

TASKS = (Task(TaskKind.LOCATE), Task(TaskKind.REPORT), Task(TaskKind.QUESTION, "Is there a nodule?"))


class WorkerSite:
    """A data folder, its worker processes, and what they published."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.data.mkdir()
        self.logs = [folder / "worker-0.log"]
        self.engine: Engine = open_database(database_path(self.data))
        migrate(self.engine)

    def start(self, *arguments: str | Path) -> Process:
        """`python -m hilum_worker` with these arguments beside the data folder."""
        return self.process([sys.executable, "-m", "hilum_worker", "--data", self.data, *arguments])

    def process(self, command: list[str | Path]) -> Process:
        """Another program, with a log of its own."""
        self.logs.append(self.logs[0].with_name(f"worker-{len(self.logs)}.log"))
        return Process(command, log=self.logs[-1])

    def keep(self, file: Path) -> ImageReference:
        """Puts a DICOM file into the store."""
        header = read_header(file)
        digest = digest_of(header.sop_instance_uid)
        uri = f"spool:{digest[:2]}/{digest[:32]}-{digest[32:]}.dcm"
        place = self.data / "spool" / uri.removeprefix("spool:")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
        return ImageReference(
            header.series_instance_uid, header.sop_instance_uid, header.sop_class_uid, uri, 1, header.frames,
            header.rows, header.columns,
        )  # fmt: skip

    def ask(self, image: ImageReference, study_uid: str, *, revision: int = 1) -> None:
        """Publishes a request, as the router does."""
        now = datetime.now(UTC)
        request = InferenceRequest(
            study_uid, revision, Lane.ROUTINE, TASKS, (image,), "chest", now - timedelta(seconds=5), now
        )
        payload = InferenceRequested.from_domain(request).model_dump_json()
        with transaction(self.engine) as connection:
            message = Outgoing("inference.routine", study_key(study_uid), payload)
            SqlPublisher(SystemClock()).publish(connection, [message])

    def ask_about(self, pixels: NDArray[np.uint8], name: str, **attributes: Any) -> str:
        """Stores an image as a study of its own and asks about it; the study's UID."""
        file = write(self.data / f"{name}.dcm", chest_image(pixels, study=name, **attributes))
        study_uid = read_header(file).study_instance_uid
        self.ask(self.keep(file), study_uid)
        return study_uid

    def produced(self) -> list[FindingsProduced]:
        return [FindingsProduced.model_validate_json(text) for text in self._payloads("findings.produced")]

    def ended(self) -> list[StudyEnded]:
        return [StudyEnded.model_validate_json(text) for text in self._payloads("study.ended")]

    def finished(self, count: int) -> bool:
        """True when so many requests have come to an end."""
        return len(self.produced()) + len(self.ended()) >= count

    def attempts(self) -> list[tuple[str, int]]:
        """State and attempts of each job, oldest first."""
        with reading(self.engine) as connection:
            return [(row.state, row.attempts) for row in connection.execute(sa.select(jobs).order_by("enqueued_at"))]

    def _payloads(self, topic: str) -> list[str]:
        with reading(self.engine) as connection:
            query = sa.select(events.c.payload).where(events.c.topic == topic).order_by(events.c.offset)
            return list(connection.execute(query).scalars())


def bright_spot() -> NDArray[np.uint8]:
    """A dark image with one bright spot."""
    pixels = np.full((120, 100), 30, np.uint8)
    pixels[30:60, 20:50] = 240
    return pixels
