"""What the worker is told: one frozen class."""

from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from hilum.runtime.config import Site


class Settings(BaseModel):
    """What one worker is told.

    Attributes:
        lease: how long a claim holds without a heartbeat.
        max_wait: a job that waited longer is claimed first.
        max_job: how long one attempt may take before the process is taken to hang.
        last_beat: how long the end of a job waits for a renewal under way; the database gives up before that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path
    checkpoint: Path
    threads: int | None = None
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
            attempts=site.worker.attempts,
            lease=timedelta(seconds=site.worker.lease_s),
            max_wait=timedelta(seconds=site.worker.max_wait_s),
            max_job=timedelta(seconds=site.worker.max_job_s),
        )
