"""What the console needs to know, in one frozen value."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from hilum.domain.worklist import Limits
from hilum.runtime.config import Site

LOOPBACK = "127.0.0.1"
"""The only address the page is served on: it has no log-in, so nobody but this machine's users may reach it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`port` 0 takes a free one; `destinations` are the names of the configured ones.

    `keep_ended` is how long a study stays on the reading list after the AI ended with it.
    """

    data: Path
    port: int
    limits: Limits
    keep_ended: timedelta
    zone: ZoneInfo
    institution: str
    destinations: tuple[str, ...]

    @classmethod
    def of(cls, site: Site, *, data: Path, port: int) -> "Settings":
        return cls(
            data=data,
            port=port,
            limits=site.worklist.to_domain(),
            keep_ended=site.worklist.keep_ended,
            zone=ZoneInfo(site.time_zone),
            institution=site.institution,
            destinations=tuple(d.name for d in site.destinations),
        )
