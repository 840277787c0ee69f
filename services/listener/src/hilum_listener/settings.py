"""What each role of the listener needs to know."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Self

from hilum.domain.routing import Rule
from hilum.domain.study import Patience
from hilum.runtime.config import DicomDestination, Peer, Retention, Site, Stow, Tls


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
    def runs(self) -> Path:
        """One file for each run of a receiver that may have left something behind."""
        return self.spool / "runs"

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
    processes: int = 1

    @classmethod
    def of(cls, site: Site, *, port: int) -> Self:
        return cls(
            processes=site.listener.processes or min(8, max(1, (os.cpu_count() or 1) // 4)),
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
    """`pacs_ae_titles`: whose word counts when another system says that it answers for an object. `early_rules`: those
    that start on the first series they take. `prior_rules`: all of them, when one asks for earlier studies and there is
    an archive to fetch them from."""

    quiet_time: timedelta
    quiet_time_by_modality: Mapping[str, timedelta] = field(default_factory=dict)
    unreleased_quiet_time: timedelta = timedelta(seconds=60)
    max_age: timedelta = timedelta(hours=1)
    archive: bool = False
    pacs_ae_titles: frozenset[str] = frozenset()
    early_rules: tuple[Rule, ...] = ()
    prior_rules: tuple[Rule, ...] = ()
    retention: Retention = field(default_factory=Retention)

    @classmethod
    def of(cls, site: Site) -> Self:
        listener = site.listener
        return cls(
            quiet_time=timedelta(seconds=listener.quiet_time_s),
            quiet_time_by_modality={m: timedelta(seconds=s) for m, s in listener.quiet_time_by_modality.items()},
            unreleased_quiet_time=timedelta(seconds=listener.unreleased_quiet_time_s),
            max_age=timedelta(seconds=listener.max_age_s),
            archive=listener.archive,
            early_rules=tuple(rule for rule in site.domain_rules if rule.early),
            prior_rules=prior_rules(site),
            pacs_ae_titles=frozenset(d.ae_title.strip() for d in site.destinations if isinstance(d, DicomDestination)),
            retention=site.retention,
        )

    def patience(self, modalities: str) -> Patience:
        """`modalities` as the index has them: `CR` or `CT/SR`. The most patient of them counts."""
        named = [self.quiet_time_by_modality.get(m, self.quiet_time) for m in modalities.split("/")]
        return Patience(max(named), self.unreleased_quiet_time, self.max_age)


def prior_rules(site: Site) -> tuple[Rule, ...]:
    rules = site.domain_rules
    return rules if site.retrieves and any(rule.priors for rule in rules) else ()


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """`attempts`, `first_retry` and `longest_retry` are of one retrieval; the limits are of one study."""

    grace: timedelta = timedelta(seconds=10)
    unreleased_quiet_time: timedelta = timedelta(seconds=60)
    attempts: int = 6
    first_retry: timedelta = timedelta(seconds=5)
    longest_retry: timedelta = timedelta(minutes=5)
    lease: timedelta = timedelta(seconds=60)
    max_instances: int = 2000
    max_bytes: int = 4096 * 1_000_000
    prior_rules: tuple[Rule, ...] = ()
    min_free_bytes: int = 0

    @classmethod
    def of(cls, site: Site) -> Self:
        fetch = site.fetch
        patience_s = max((archive.timeout_s for archive in site.archives), default=0.0)
        return cls(
            grace=timedelta(seconds=fetch.grace_s),
            unreleased_quiet_time=timedelta(seconds=site.listener.unreleased_quiet_time_s),
            attempts=fetch.attempts,
            first_retry=timedelta(seconds=fetch.first_retry_s),
            longest_retry=timedelta(seconds=fetch.longest_retry_s),
            lease=timedelta(seconds=max(fetch.lease_s, 2 * patience_s)),  # an archive may be silent for its timeout
            max_instances=fetch.max_instances,
            max_bytes=fetch.max_mb * 1_000_000,
            prior_rules=prior_rules(site),
            min_free_bytes=site.listener.min_free_mb * 1_000_000,
        )

    def pause(self, attempts: int) -> timedelta:
        """After so many attempts: doubled each time, up to the longest."""
        doubled: timedelta = self.first_retry * (1 << min(attempts - 1, 20))
        return min(doubled, self.longest_retry)


@dataclass(frozen=True, slots=True)
class CommitSettings:
    """`tls`: what Hilum shows to peers that it reaches over TLS."""

    ae_title: str
    peers: tuple[Peer, ...]
    tls: Tls | None = None

    @classmethod
    def of(cls, site: Site) -> Self:
        return cls(ae_title=site.ae_title.strip(), peers=site.peers, tls=site.listener.tls)


@dataclass(frozen=True, slots=True)
class RouteSettings:
    rules: tuple[Rule, ...]

    @classmethod
    def of(cls, site: Site) -> Self:
        return cls(rules=site.domain_rules)
