"""One free question about one study, for `hilum ask`: answered at once, written nowhere."""

import threading
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Engine

import hilum_medmo
from hilum.adapters.instances import open_instances
from hilum.adapters.sql.database import open_state, reading
from hilum.adapters.sql.tables import jobs
from hilum.contracts.messages import InferenceRequested
from hilum.domain.errors import Reject, Retry
from hilum.domain.inference import ImageReference, ModelIdentity, Task, TaskKind
from hilum.ports.instances import InstanceStore
from hilum.ports.model import Model
from hilum.runtime.cluster import SecretMissing
from hilum.runtime.config import Site
from hilum_worker import medmo
from hilum_worker.handlers.examine import show
from hilum_worker.models import model_of
from hilum_worker.settings import Settings


@dataclass(frozen=True, slots=True)
class Asked:
    """What the model said, about which image, and which model it was."""

    question: str
    text: str
    image: ImageReference
    images: int
    model: ModelIdentity
    seconds: float


def ask(
    data: Path,
    study_instance_uid: str,
    question: str,
    *,
    site: Site | None = None,
    image: int = 1,
) -> Asked:
    """Asks MedMO about image number `image` (from 1) of those that the rules chose in the study's newest revision.

    Args:
        site: names the model, its servers, and the cluster whose database and instances are asked; without it
            MedMO-Nano in this process and the data folder.

    Raises:
        Reject: no such study or image, an empty question, or an answer that can't be read.
        Retry: the image's file isn't there.
        Busy: the database or every model server is away.
    """
    site = site or Site()
    try:
        store = open_instances(data, site.cluster)
        engine = open_state(data, site.cluster, application="hilum-ask")
    except SecretMissing as error:
        raise Reject(str(error)) from error
    try:
        images = chosen_images(engine, study_instance_uid)
    finally:
        engine.dispose()
    try:
        checkpoint = site.model.checkpoint or medmo.default_checkpoint()
        model = model_of(Settings.of(site, data=data, checkpoint=checkpoint), threading.Event(), wait=False)
    except hilum_medmo.CheckpointError as error:
        raise Reject(f"no usable model: {error}") from error
    assert model is not None, "nobody stops this"
    return ask_about(images, question, model, store, image=image)


def chosen_images(engine: Engine, study_instance_uid: str) -> tuple[ImageReference, ...]:
    """The images that the rules chose for the model; Reject when there are none."""
    newest = (
        sa.select(jobs.c.payload)
        .where(jobs.c.study_instance_uid == study_instance_uid)
        .order_by(jobs.c.revision.desc())
        .limit(1)
    )
    with reading(engine) as connection:
        payload = connection.execute(newest).scalar_one_or_none()
    if payload is None:
        raise Reject("the rules chose no image of this study for the model (see `hilum show`)")
    return InferenceRequested.model_validate(payload).to_domain().images


def ask_about(
    images: tuple[ImageReference, ...], question: str, model: Model, store: InstanceStore, *, image: int = 1
) -> Asked:
    """As `ask`, with the images, the model and the store at hand."""
    question = question.strip()
    if not question:
        raise Reject("the question is empty")
    if not 1 <= image <= len(images):
        raise Reject(f"the study has {len(images)} images for the model, and image {image} was asked for")
    chosen = images[image - 1]
    try:
        frame = show(chosen, store)
    except Retry as error:
        raise Retry(f"the image can't be shown: {error.reason}") from error
    answer = model.answer(Task(TaskKind.QUESTION, question), frame.pixels)
    return Asked(question, answer.text.strip(), chosen, len(images), model.identity, answer.seconds)
