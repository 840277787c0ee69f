"""A data folder with a database, stored images and requests about them."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import Engine

from hilum.adapters.folder import FolderInstances
from hilum.domain.identity import derive_uid, digest_of
from hilum.domain.inference import ImageReference, InferenceRequest, Lane, Task, TaskKind
from hilum.testing.dicom_files import chest_image, write

NOW = datetime(2026, 11, 24, 14, 0, tzinfo=UTC)


def with_spot(rows: int = 100, columns: int = 200) -> NDArray[np.uint8]:
    """A dark image with one bright spot: rows 20 to 40, columns 50 to 100 of 100 x 200."""
    pixels = np.full((rows, columns), 40, np.uint8)
    pixels[rows // 5 : rows * 2 // 5, columns // 4 : columns // 2] = 230
    return pixels


@dataclass
class Bench:
    data: Path
    engine: Engine
    store: FolderInstances = field(init=False)

    def __post_init__(self) -> None:
        self.store = FolderInstances(self.data / "spool")

    def image(self, pixels: NDArray[Any], name: str, **attributes: Any) -> ImageReference:
        dataset = chest_image(pixels, name=name, **attributes)
        digest = digest_of(name)
        path = self.data / "spool" / digest[:2] / f"{digest[:32]}-{digest[32:]}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, dataset)
        return ImageReference(
            series_instance_uid=dataset.SeriesInstanceUID,
            sop_instance_uid=dataset.SOPInstanceUID,
            sop_class_uid=dataset.SOPClassUID,
            uri=f"spool:{digest[:2]}/{path.name}",
            frame=1,
            frames=1,
            rows=pixels.shape[0],
            columns=pixels.shape[1],
        )

    def request(
        self,
        *images: ImageReference,
        study: str = "study",
        revision: int = 1,
        lane: Lane = Lane.ROUTINE,
        tasks: tuple[Task, ...] = (Task(TaskKind.LOCATE), Task(TaskKind.REPORT)),
        at: datetime = NOW,
    ) -> InferenceRequest:
        uid = derive_uid("test-study", study)
        return InferenceRequest(uid, revision, lane, tasks, images, "chest", at - timedelta(seconds=5), at)


@pytest.fixture
def bench(tmp_path: Path, engine: Engine) -> Bench:
    """With a database of each kind."""
    return Bench(tmp_path, engine)
