"""What the console needs to know, in one frozen value."""

from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from hilum.domain.worklist import Limits
from hilum.runtime.config import Site

LOOPBACK = "127.0.0.1"
"""The only address the page is served on: it has no log-in, so nobody but this machine's users may reach it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`port` 0 takes a free one; `destinations` are the names of the configured ones."""

    data: Path
    port: int
    limits: Limits
    zone: ZoneInfo
    institution: str
    destinations: tuple[str, ...]

    @classmethod
    def of(cls, site: Site, *, data: Path, port: int) -> "Settings":
        return cls(
            data=data,
            port=port,
            limits=site.worklist.to_domain(),
            zone=ZoneInfo(site.time_zone),
            institution=site.institution,
            destinations=tuple(d.name for d in site.destinations),
        )
