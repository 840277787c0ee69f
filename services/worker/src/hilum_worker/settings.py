"""What the worker is told: one frozen class."""

from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from hilum.runtime.config import Site


class Settings(BaseModel):
    """What one worker is told.

    Attributes:
        servers: model servers, `host:port` each; without any, the checkpoint is run in this process.
        digest: of the servers' weights, when it isn't that of the checkpoint.
        answer: how long a model server may take for one answer.
        silence: how long it may give no sign of life.
        lease: how long a claim holds without a heartbeat.
        max_wait: a job that waited longer is claimed first.
        max_job: how long one attempt may take before the process is taken to hang.
        last_beat: how long the end of a job waits for a renewal under way; the database gives up before that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path
    checkpoint: Path
    threads: int | None = None
    servers: tuple[str, ...] = ()
    digest: str | None = None
    answer: timedelta = timedelta(seconds=240)
    silence: timedelta = timedelta(seconds=10)
    attempts: int = Field(default=3, ge=1)
    lease: timedelta = timedelta(seconds=30)
    max_wait: timedelta = timedelta(seconds=120)
    max_job: timedelta = timedelta(seconds=900)
    last_beat: timedelta = timedelta(seconds=20)
    first_retry: timedelta = timedelta(seconds=1)
    longest_side: int = Field(default=1024, ge=64)

    @classmethod
    def of(cls, site: Site, *, data: Path, checkpoint: Path) -> "Settings":
        """From `hilum.toml`."""
        return cls(
            data=data,
            checkpoint=checkpoint,
            threads=site.model.threads,
            servers=site.model.servers,
            digest=site.model.digest,
            answer=timedelta(seconds=site.model.timeout_s),
            silence=timedelta(seconds=site.model.silence_s),
            attempts=site.worker.attempts,
            lease=timedelta(seconds=site.worker.lease_s),
            max_wait=timedelta(seconds=site.worker.max_wait_s),
            max_job=timedelta(seconds=site.worker.max_job_s),
        )
