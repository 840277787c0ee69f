"""`hilum.toml`: one frozen, typed class for each part; a wrong key is an error that names it and its line."""

import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from hilum.domain.inference import Lane, Task, TaskKind
from hilum.domain.routing import PriorsWanted, Rule
from hilum.domain.worklist import Limits
from hilum.runtime.cluster import Cluster, HostPort
from hilum.runtime.toml_lines import key_lines, line_of

AeTitle = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[ -\[\]-~]+$")]  # PS3.5 6.2, no backslash
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class ConfigError(Exception):
    """The configuration can't be used; the text says which key, where, and what is expected."""


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Peer(Part):
    """A system that may send to Hilum.

    With a `certificate` (PEM) it must come over TLS and show exactly that one. `port` is where it listens itself, for
    what Hilum sends back on an association of its own (storage commitment).
    """

    ae_title: AeTitle
    host: str | None = None
    port: Port | None = None
    certificate: Path | None = None
    max_associations: int | None = Field(default=None, ge=1, le=1000)
    max_associations_per_min: int | None = Field(default=None, ge=1, le=100_000)


class Tls(Part):
    """DICOM over TLS, on a port of its own.

    Callers must show a certificate when there is a `client_ca` (PEM, one or more authorities) or when a peer has one
    configured.
    """

    port: Port = 2762  # dicom-tls, PS3.8 9.1.1
    certificate: Path
    key: Path
    client_ca: Path | None = None
    only: bool = False


class Stow(Part):
    """STOW-RS, beside the DICOM port; HTTPS with the certificates of `Tls` where there are some, else HTTP."""

    port: Port = 8043
    max_request_mb: int = Field(default=4096, ge=1, le=1_000_000)


class Listener(Part):
    """The front door.

    A study is complete after `quiet_time_s` without an image, or the time that `quiet_time_by_modality` names for one
    of its modalities; after `unreleased_quiet_time_s` where the sender's association broke or stays open; and after
    `max_age_s` whatever else is missing. With `archive` Hilum answers storage commitment requests for what it holds and
    keeps it for good. `processes` receive on the same port; 0 stands for one for every four cores, at most 8.
    """

    host: str = "127.0.0.1"
    quiet_time_s: Seconds = 5.0
    quiet_time_by_modality: dict[Annotated[str, Field(pattern=r"^[A-Z0-9_]{1,16}$")], Seconds] = {}
    unreleased_quiet_time_s: Seconds = 60.0
    max_age_s: Seconds = 3600.0
    archive: bool = False
    processes: int = Field(default=0, ge=0, le=32)
    max_associations: int = Field(default=64, ge=1, le=1000)
    idle_timeout_s: Seconds = 60.0
    max_pdu: int = Field(default=131_072, ge=4096, le=1_048_576)
    min_free_mb: int = Field(default=512, ge=0)
    tls: Tls | None = None
    stow: Stow | None = None


Days = Annotated[float, Field(gt=0, le=36_500)]


Percent = Annotated[float, Field(gt=0, le=100)]


class Retention(Part):
    """What is removed when; without a number of days, never.

    `study_days` counts from the last image. Whatever Hilum answered for (storage commitment), and a study that is not
    ended or has a job or a delivery under way, stays however old it is. Where the disk that holds the instances is
    filled to `high_watermark`, studies go from `pressed_study_days` on, the oldest first, until `low_watermark`; a
    bucket has no size of its own, so it is filled when its instances take `store_limit_gb`.
    """

    journal_days: Days | None = 7.0
    notice_days: Days | None = 90.0
    quarantine_days: Days | None = None
    study_days: Days | None = None
    high_watermark: Percent | None = None
    low_watermark: Percent = 75.0
    pressed_study_days: Days = 1.0
    store_limit_gb: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if self.high_watermark is not None and self.low_watermark >= self.high_watermark:
            raise ValueError("low_watermark must be below high_watermark")
        return self


class RuleConfig(Part):
    """`priors`: so many earlier studies of the patient are fetched, none older than `priors_within_days` before the
    study; the study waits for them until `priors_wait_s` after its last image.
    """

    name: str = Field(min_length=1, max_length=100)
    modalities: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    description_words: tuple[str, ...] = ()
    exclude_words: tuple[str, ...] = ()
    tasks: tuple[Literal["locate", "report"], ...] = ("locate", "report")
    questions: tuple[Annotated[str, Field(min_length=1, max_length=300)], ...] = ()
    lane: Lane | Literal["by order"] = "by order"
    max_images: int = Field(default=4, ge=1, le=32)
    start: Literal["complete study", "first series"] = "complete study"
    priors: int = Field(default=0, ge=0, le=20)
    priors_within_days: int = Field(default=1825, ge=1, le=36_500)
    priors_wait_s: float = Field(default=30.0, ge=0, le=3600)

    def to_domain(self) -> Rule:
        tasks = [Task(TaskKind(kind)) for kind in dict.fromkeys(self.tasks)]
        tasks += [Task(TaskKind.QUESTION, question) for question in self.questions]
        return Rule(
            name=self.name,
            modalities=self.modalities,
            body_parts=self.body_parts,
            description_words=self.description_words,
            exclude_words=self.exclude_words,
            tasks=tuple(tasks),
            lane=self.lane if isinstance(self.lane, Lane) else None,
            max_images=self.max_images,
            early=self.start == "first series",
            priors=PriorsWanted(self.priors, self.priors_within_days, timedelta(seconds=self.priors_wait_s))
            if self.priors
            else None,
        )


class Destination(Part):
    """Where results go. `simulation = true` marks a system that no patient depends on: only such get Nano's results."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    simulation: bool = False


class DicomDestination(Destination):
    kind: Literal["dicom"]
    ae_title: AeTitle
    host: str
    port: Port
    timeout_s: Seconds = 30.0


class FhirDestination(Destination):
    kind: Literal["fhir"]
    url: str = Field(pattern=r"^https?://")
    timeout_s: Seconds = 30.0


class Hl7Destination(Destination):
    kind: Literal["hl7"]
    host: str
    port: Port
    application: str = Field(default="RIS", max_length=180)
    facility: str = Field(default="", max_length=180)
    timeout_s: Seconds = 30.0


class ArchivePart(Part):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    timeout_s: Seconds = 30.0


class DicomArchive(ArchivePart):
    """A PACS that Hilum asks by C-FIND how many images a study has, and from which it may retrieve."""

    kind: Literal["dicom"] = "dicom"
    ae_title: AeTitle
    host: str
    port: Port
    retrieve: Literal["none", "c-get", "c-move"] = "none"


class DicomwebArchive(ArchivePart):
    """The same by QIDO-RS and WADO-RS. `url`: where `/studies` lies below."""

    kind: Literal["dicomweb"]
    url: str = Field(pattern=r"^https?://")
    retrieve: Literal["none", "wado-rs"] = "none"


def _archive_kind(value: object) -> str:
    """Files of 0.2 name no kind."""
    kind = value.get("kind", "dicom") if isinstance(value, dict) else getattr(value, "kind", None)
    return str(kind)


AnyArchive = Annotated[
    Annotated[DicomArchive, Tag("dicom")] | Annotated[DicomwebArchive, Tag("dicomweb")], Discriminator(_archive_kind)
]


class Fetch(Part):
    """What Hilum retrieves of archives: missing images `grace_s` after the last one came, and earlier studies.

    `max_instances` and `max_mb` bound what is taken for one study.
    """

    grace_s: Seconds = 10.0
    attempts: int = Field(default=6, ge=1, le=100)
    first_retry_s: Seconds = 5.0
    longest_retry_s: Seconds = 300.0
    lease_s: Seconds = 60.0
    max_instances: int = Field(default=2000, ge=1, le=100_000)
    max_mb: int = Field(default=4096, ge=1, le=1_000_000)


AnyDestination = Annotated[DicomDestination | FhirDestination | Hl7Destination, Field(discriminator="kind")]


class Worklist(Part):
    """The longest wait, in minutes, for each order priority before a study goes to the top; and who leaves the list."""

    stat_max_wait_min: float = Field(default=15, gt=0)
    urgent_max_wait_min: float = Field(default=60, gt=0)
    routine_max_wait_min: float = Field(default=240, gt=0)
    keep_ended_h: float = Field(default=72, gt=0, le=24 * 366)

    @property
    def keep_ended(self) -> timedelta:
        return timedelta(hours=self.keep_ended_h)

    def to_domain(self) -> Limits:
        return Limits(
            stat=timedelta(minutes=self.stat_max_wait_min),
            urgent=timedelta(minutes=self.urgent_max_wait_min),
            routine=timedelta(minutes=self.routine_max_wait_min),
        )


class Model(Part):
    """`checkpoint` is a folder with a Qwen3-VL checkpoint; without one, MedMO-Nano is used.

    With `servers` (each `host:port` of a Triton's gRPC) they are asked instead of a model in the worker's process, if
    their weights have this `digest`, or without one that of the checkpoint; with one, they say what their model can do.
    A server that gives no answer within `timeout_s`, or no sign of life for `silence_s`, has failed, and another is
    asked.
    """

    checkpoint: Path | None = None
    threads: int | None = Field(default=None, ge=1, le=256)
    servers: tuple[HostPort, ...] = ()
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    timeout_s: Seconds = 240.0
    silence_s: Seconds = 10.0

    @model_validator(mode="after")
    def _digest_of_servers(self) -> Self:
        if self.digest and not self.servers:
            raise ValueError("a digest says which weights `servers` must have, and there are none")
        return self


class Worker(Part):
    attempts: int = Field(default=3, ge=1, le=20)
    lease_s: Seconds = 30.0
    max_wait_s: Seconds = 120.0
    max_job_s: Seconds = 900.0


class Results(Part):
    """`lease_s`: how long a delivery is held for a process that shows no life. `in_flight`: how many may be under way
    at one destination, over all processes of a cluster; on one machine deliveries to a destination follow each other.
    """

    lease_s: Annotated[float, Field(ge=1, le=86_400)] = 6.0
    in_flight: int = Field(default=2, ge=1, le=64)
    first_retry_s: Seconds = 1.0
    longest_retry_s: Seconds = 300.0
    keep_events_days: float = Field(default=7.0, ge=1, le=3650)


NANO_RULE = RuleConfig(
    name="chest radiograph",
    modalities=("CR", "DX"),
    body_parts=("CHEST", "THORAX", "LUNG", "RIB", "RIBS"),
    description_words=("chest", "thorax", "lung", "cxr", "ribs"),
    exclude_words=("lateral",),
    tasks=("locate", "report"),
    questions=(),
)
"""What MedMO-Nano can answer: frontal chest radiographs. Used when `hilum.toml` has no rules."""


class Site(Part):
    """The whole of `hilum.toml`. Without `cluster` everything runs on this machine, from its data folder."""

    ae_title: AeTitle = "HILUM"
    time_zone: str = "UTC"
    institution: str = ""
    listener: Listener = Listener()
    retention: Retention = Retention()
    peers: tuple[Peer, ...] = ()
    rules: tuple[RuleConfig, ...] = (NANO_RULE,)
    archives: tuple[AnyArchive, ...] = ()
    fetch: Fetch = Fetch()
    destinations: tuple[AnyDestination, ...] = ()
    worklist: Worklist = Worklist()
    model: Model = Model()
    worker: Worker = Worker()
    results: Results = Results()
    cluster: Cluster | None = None

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"'{name}' is not a time zone of the IANA database, such as Europe/Berlin") from error
        return name

    @model_validator(mode="after")
    def _unique_names(self) -> Self:
        for what, names in (
            ("destinations", [d.name for d in self.destinations]),
            ("archives", [a.name for a in self.archives]),
            ("rules", [r.name for r in self.rules]),
            ("peers", [f"{p.ae_title} {p.host or ''}" for p in self.peers]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"two {what} are named '{twice[0].strip()}'")
        return self

    @property
    def retrieves(self) -> bool:
        """True when Hilum may fetch from an archive."""
        return any(archive.retrieve != "none" for archive in self.archives)

    @property
    def domain_rules(self) -> tuple[Rule, ...]:
        return tuple(rule.to_domain() for rule in self.rules)


def load(path: Path | None) -> Site:
    """The site's configuration; the defaults without a file.

    Raises:
        ConfigError: unreadable, not TOML, or a key that is unknown or wrong, each with its line.
    """
    if path is None:
        return Site()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read: {type(error).__name__}") from error
    return parse(text, name=str(path))


def parse(text: str, *, name: str = "hilum.toml") -> Site:
    """As `load`, from text."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: {error}") from error
    try:
        return Site.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, text, name)) from error


def _explain(error: ValidationError, text: str, name: str) -> str:
    lines = key_lines(text)
    found = []
    for item in error.errors():
        location = tuple(part for part in item["loc"] if part not in ("dicom", "dicomweb", "fhir", "hl7"))
        line = line_of(lines, location)
        key = ".".join(str(part) for part in location) or "the file"
        message = "unknown key" if item["type"] == "extra_forbidden" else item["msg"]
        found.append((line or 0, f"{name}:{line}: {key}: {message}" if line else f"{name}: {key}: {message}"))
    return "\n".join(text for _, text in sorted(found))
