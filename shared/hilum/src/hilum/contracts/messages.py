"""The messages as pydantic models. They carry ids, revision, URIs and digests: never pixels, never a patient's name.

The meaning of a field never changes under a version; a new meaning is a new version. A reader ignores fields that it
doesn't know, so an older reader understands a newer writer.
"""

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from hilum.domain import findings as domain_findings
from hilum.domain import inference as domain_inference
from hilum.domain import results as domain_results
from hilum.domain import study as domain_study
from hilum.domain.geometry import PixelBox
from hilum.domain.inference import Lane, TaskKind
from hilum.domain.study import OrderPriority

Uid = Annotated[str, Field(pattern=r"^[0-9.]{1,64}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32,64}$")]


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class InstanceItem(Message):
    sop_instance_uid: Uid
    sop_class_uid: Uid
    transfer_syntax_uid: Uid
    uri: str
    sha256: Digest
    rows: int
    columns: int
    frames: int
    instance_number: int | None = None
    view_position: str = ""
    photometric: str = ""
    presentation_intent: str = ""


class SeriesItem(Message):
    series_instance_uid: Uid
    modality: str
    body_part: str
    description: str
    instances: tuple[InstanceItem, ...]

    def to_domain(self) -> domain_study.Series:
        items = tuple(
            domain_study.Instance(**{name: getattr(i, name) for name in InstanceItem.model_fields})
            for i in self.instances
        )
        return domain_study.Series(self.series_instance_uid, self.modality, self.body_part, self.description, items)

    @classmethod
    def from_domain(cls, series: domain_study.Series) -> "SeriesItem":
        return cls(
            series_instance_uid=series.series_instance_uid,
            modality=series.modality,
            body_part=series.body_part,
            description=series.description,
            instances=tuple(
                InstanceItem(**{name: getattr(i, name) for name in InstanceItem.model_fields}) for i in series.instances
            ),
        )


class PriorStudyItem(Message):
    """An earlier study that was fetched because a rule asked for it. `study_date`: `YYYYMMDD`."""

    study_instance_uid: Uid
    study_date: str
    series: tuple[SeriesItem, ...]


class StudyReady(Message):
    """A revision of a study is complete. Owner: listener/assemble."""

    schema_version: Literal["study.ready/1"] = "study.ready/1"
    study_instance_uid: Uid
    revision: int
    series: tuple[SeriesItem, ...]
    description: str
    order_priority: OrderPriority
    last_received_at: AwareDatetime
    completed_at: AwareDatetime
    complete_reason: str
    priors: tuple[PriorStudyItem, ...] = ()

    def to_domain(self) -> domain_study.StudyRevision:
        return domain_study.StudyRevision(
            study_instance_uid=self.study_instance_uid,
            revision=self.revision,
            series=tuple(s.to_domain() for s in self.series),
            description=self.description,
            order_priority=self.order_priority,
            last_received_at=self.last_received_at,
            completed_at=self.completed_at,
            complete_reason=self.complete_reason,
            priors=tuple(
                domain_study.PriorStudy(p.study_instance_uid, p.study_date, tuple(s.to_domain() for s in p.series))
                for p in self.priors
            ),
        )

    @classmethod
    def from_domain(cls, study: domain_study.StudyRevision) -> "StudyReady":
        return cls(
            study_instance_uid=study.study_instance_uid,
            revision=study.revision,
            series=tuple(SeriesItem.from_domain(s) for s in study.series),
            description=study.description,
            order_priority=study.order_priority,
            last_received_at=study.last_received_at,
            completed_at=study.completed_at,
            complete_reason=study.complete_reason,
            priors=tuple(
                PriorStudyItem(
                    study_instance_uid=p.study_instance_uid,
                    study_date=p.study_date,
                    series=tuple(SeriesItem.from_domain(s) for s in p.series),
                )
                for p in study.priors
            ),
        )


class ImageItem(Message):
    series_instance_uid: Uid
    sop_instance_uid: Uid
    sop_class_uid: Uid
    uri: str
    frame: int = Field(ge=1)
    frames: int = Field(ge=1)
    rows: int = Field(ge=1)
    columns: int = Field(ge=1)

    def to_domain(self) -> domain_inference.ImageReference:
        return domain_inference.ImageReference(**{name: getattr(self, name) for name in ImageItem.model_fields})

    @classmethod
    def from_domain(cls, image: domain_inference.ImageReference) -> "ImageItem":
        return cls(**{name: getattr(image, name) for name in cls.model_fields})


class PriorItem(Message):
    """Images of an earlier study, for comparison. `study_date`: `YYYYMMDD`."""

    study_instance_uid: Uid
    study_date: str
    images: tuple[ImageItem, ...]

    def to_domain(self) -> domain_inference.PriorReference:
        images = tuple(i.to_domain() for i in self.images)
        return domain_inference.PriorReference(self.study_instance_uid, self.study_date, images)

    @classmethod
    def from_domain(cls, prior: domain_inference.PriorReference) -> "PriorItem":
        images = tuple(ImageItem.from_domain(i) for i in prior.images)
        return cls(study_instance_uid=prior.study_instance_uid, study_date=prior.study_date, images=images)


class TaskItem(Message):
    kind: TaskKind
    question: str = ""


class InferenceRequested(Message):
    """A request to the model. Owner: listener/route; topic inference.<lane>."""

    schema_version: Literal["inference.requested/1"] = "inference.requested/1"
    study_instance_uid: Uid
    revision: int
    lane: Lane
    tasks: tuple[TaskItem, ...]
    images: tuple[ImageItem, ...]
    rule: str
    last_received_at: AwareDatetime
    requested_at: AwareDatetime
    priors: tuple[PriorItem, ...] = ()

    def to_domain(self) -> domain_inference.InferenceRequest:
        return domain_inference.InferenceRequest(
            study_instance_uid=self.study_instance_uid,
            revision=self.revision,
            lane=self.lane,
            tasks=tuple(domain_inference.Task(t.kind, t.question) for t in self.tasks),
            images=tuple(i.to_domain() for i in self.images),
            rule=self.rule,
            last_received_at=self.last_received_at,
            requested_at=self.requested_at,
            priors=tuple(p.to_domain() for p in self.priors),
        )

    @classmethod
    def from_domain(cls, request: domain_inference.InferenceRequest) -> "InferenceRequested":
        return cls(
            study_instance_uid=request.study_instance_uid,
            revision=request.revision,
            lane=request.lane,
            tasks=tuple(TaskItem(kind=t.kind, question=t.question) for t in request.tasks),
            images=tuple(ImageItem.from_domain(i) for i in request.images),
            rule=request.rule,
            last_received_at=request.last_received_at,
            requested_at=request.requested_at,
            priors=tuple(PriorItem.from_domain(p) for p in request.priors),
        )


class ThresholdItem(Message):
    report: float
    urgent: float


class ModelItem(Message):
    name: str
    version: str
    digest: Digest
    simulation: bool
    disclaimer: str
    manufacturer: str
    thresholds: dict[str, ThresholdItem]
    default_threshold: ThresholdItem

    def to_domain(self) -> domain_inference.ModelIdentity:
        return domain_inference.ModelIdentity(
            name=self.name,
            version=self.version,
            digest=self.digest,
            simulation=self.simulation,
            disclaimer=self.disclaimer,
            manufacturer=self.manufacturer,
            thresholds={k: domain_inference.Threshold(v.report, v.urgent) for k, v in self.thresholds.items()},
            default_threshold=domain_inference.Threshold(self.default_threshold.report, self.default_threshold.urgent),
        )

    @classmethod
    def from_domain(cls, model: domain_inference.ModelIdentity) -> "ModelItem":
        def item(threshold: domain_inference.Threshold) -> ThresholdItem:
            return ThresholdItem(report=threshold.report, urgent=threshold.urgent)

        return cls(
            name=model.name,
            version=model.version,
            digest=model.digest,
            simulation=model.simulation,
            disclaimer=model.disclaimer,
            manufacturer=model.manufacturer,
            thresholds={k: item(v) for k, v in model.thresholds.items()},
            default_threshold=item(model.default_threshold),
        )


class FindingItem(Message):
    """`box`: left, top, right, bottom in pixels of the original frame (PS3.3 C.18.6)."""

    label: str
    box: tuple[float, float, float, float]
    image: ImageItem
    probability: float = Field(ge=0, le=1)
    urgent: bool
    tracking_uid: Uid


class DroppedItem(Message):
    text: str
    reason: str


class AnswerItem(Message):
    question: str
    text: str


class FindingsProduced(Message):
    """What the model said about a revision. Owner: worker."""

    schema_version: Literal["findings.produced/1"] = "findings.produced/1"
    request_id: Digest
    study_instance_uid: Uid
    revision: int
    model: ModelItem
    prompt_digest: Digest
    images: tuple[ImageItem, ...]
    findings: tuple[FindingItem, ...]
    dropped: tuple[DroppedItem, ...] = ()
    report: str = ""
    ungrounded: tuple[str, ...] = ()
    answers: tuple[AnswerItem, ...] = ()
    produced_at: AwareDatetime
    timings_s: dict[str, float] = Field(default_factory=dict)

    def to_domain(self) -> domain_findings.Findings:
        return domain_findings.Findings(
            request_id=self.request_id,
            study_instance_uid=self.study_instance_uid,
            revision=self.revision,
            model=self.model.to_domain(),
            prompt_digest=self.prompt_digest,
            images=tuple(i.to_domain() for i in self.images),
            findings=tuple(
                domain_findings.Finding(
                    f.label, PixelBox(*f.box), f.image.to_domain(), f.probability, f.urgent, f.tracking_uid
                )
                for f in self.findings
            ),
            dropped=tuple(domain_findings.Dropped(d.text, d.reason) for d in self.dropped),
            report=self.report,
            ungrounded=self.ungrounded,
            answers=tuple(domain_findings.Answer(a.question, a.text) for a in self.answers),
            produced_at=self.produced_at,
            timings_s=tuple(sorted(self.timings_s.items())),
        )

    @classmethod
    def from_domain(cls, findings: domain_findings.Findings) -> "FindingsProduced":
        return cls(
            request_id=findings.request_id,
            study_instance_uid=findings.study_instance_uid,
            revision=findings.revision,
            model=ModelItem.from_domain(findings.model),
            prompt_digest=findings.prompt_digest,
            images=tuple(ImageItem.from_domain(i) for i in findings.images),
            findings=tuple(
                FindingItem(
                    label=f.label,
                    box=(f.box.left, f.box.top, f.box.right, f.box.bottom),
                    image=ImageItem.from_domain(f.image),
                    probability=f.probability,
                    urgent=f.urgent,
                    tracking_uid=f.tracking_uid,
                )
                for f in findings.findings
            ),
            dropped=tuple(DroppedItem(text=d.text, reason=d.reason) for d in findings.dropped),
            report=findings.report,
            ungrounded=findings.ungrounded,
            answers=tuple(AnswerItem(question=a.question, text=a.text) for a in findings.answers),
            produced_at=findings.produced_at,
            timings_s=dict(findings.timings_s),
        )


class StudyEnded(Message):
    """A revision ended without findings. Owners: listener/route (not applicable), worker (failed)."""

    schema_version: Literal["study.ended/1"] = "study.ended/1"
    study_instance_uid: Uid
    revision: int
    state: domain_results.AiState
    reason: str
    ended_at: AwareDatetime

    def to_domain(self) -> domain_results.Ended:
        return domain_results.Ended(self.study_instance_uid, self.revision, self.state, self.reason, self.ended_at)

    @classmethod
    def from_domain(cls, ended: domain_results.Ended) -> "StudyEnded":
        return cls(
            study_instance_uid=ended.study_instance_uid,
            revision=ended.revision,
            state=ended.state,
            reason=ended.reason,
            ended_at=ended.ended_at,
        )
