"""What each role of the listener needs to know."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Self

from hilum.domain.routing import Rule
from hilum.runtime.config import Peer, Site, Stow, Tls


@dataclass(frozen=True, slots=True)
class Places:
    """The folders below DIR that the listener uses. Each receiver clears its own `incoming` at its start."""

    data: Path
    incoming_name: str = "incoming"

    @property
    def spool(self) -> Path:
        return self.data / "spool"

    @property
    def incoming(self) -> Path:
        return self.spool / self.incoming_name

    @property
    def journal(self) -> Path:
        return self.spool / "journal"

    @property
    def run(self) -> Path:
        return self.data / "run"


@dataclass(frozen=True, slots=True)
class ScpSettings:
    ae_title: str
    host: str
    port: int
    peers: tuple[Peer, ...]
    max_associations: int
    idle_timeout_s: float
    max_pdu: int
    min_free_bytes: int
    tls: Tls | None = None

    @classmethod
    def of(cls, site: Site, *, port: int) -> Self:
        return cls(
            ae_title=site.ae_title.strip(),
            host=site.listener.host,
            port=port,
            peers=site.peers,
            max_associations=site.listener.max_associations,
            idle_timeout_s=site.listener.idle_timeout_s,
            max_pdu=site.listener.max_pdu,
            min_free_bytes=site.listener.min_free_mb * 1_000_000,
            tls=site.listener.tls,
        )


@dataclass(frozen=True, slots=True)
class StowSettings:
    """With `tls` the port speaks HTTPS, else HTTP."""

    host: str
    port: int
    peers: tuple[Peer, ...]
    max_requests: int
    max_request_bytes: int
    idle_timeout_s: float
    min_free_bytes: int
    tls: Tls | None = None

    @classmethod
    def of(cls, site: Site, *, port: int | None = None) -> Self:
        stow = site.listener.stow or Stow()
        return cls(
            host=site.listener.host,
            port=stow.port if port is None else port,
            peers=site.peers,
            max_requests=site.listener.max_associations,
            max_request_bytes=stow.max_request_mb * 1_000_000,
            idle_timeout_s=site.listener.idle_timeout_s,
            min_free_bytes=site.listener.min_free_mb * 1_000_000,
            tls=site.listener.tls,
        )


@dataclass(frozen=True, slots=True)
class AssembleSettings:
    quiet_time: timedelta

    @classmethod
    def of(cls, site: Site) -> Self:
        return cls(quiet_time=timedelta(seconds=site.listener.quiet_time_s))


@dataclass(frozen=True, slots=True)
class RouteSettings:
    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, site: Site) -> Self:
        return cls(rules=site.domain_rules)
