"""What the results service is told: one frozen class."""

from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from hilum.domain.results import Format
from hilum.runtime.config import AnyDestination, DicomDestination, FhirDestination, Hl7Destination, Site


class Settings(BaseModel):
    """`lease`: how long a claimed delivery is another's before it is tried again; longer than any timeout."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path
    ae_title: str = "HILUM"
    time_zone: str = "UTC"
    institution: str = ""
    destinations: tuple[AnyDestination, ...] = ()
    lease: timedelta = timedelta(seconds=60)
    first_retry: timedelta = timedelta(seconds=1)
    longest_retry: timedelta = timedelta(seconds=300)
    keep_events: timedelta = timedelta(days=7)

    @classmethod
    def of(cls, site: Site, *, data: Path) -> "Settings":
        """From `hilum.toml`. A lease outlasts the slowest destination's timeout, so a slow peer gets nothing twice."""
        slowest_s = max((d.timeout_s for d in site.destinations), default=0.0)
        return cls(
            data=data,
            ae_title=site.ae_title,
            time_zone=site.time_zone,
            institution=site.institution,
            destinations=site.destinations,
            lease=timedelta(seconds=max(site.results.lease_s, 4 * slowest_s + 5)),
            first_retry=timedelta(seconds=site.results.first_retry_s),
            longest_retry=timedelta(seconds=site.results.longest_retry_s),
            keep_events=timedelta(days=site.results.keep_events_days),
        )

    @property
    def served(self) -> dict[str, Format]:
        """The destinations by name, each with its format."""
        return {destination.name: format_of(destination) for destination in self.destinations}


def format_of(destination: AnyDestination) -> Format:
    """The one format that a destination of this kind takes."""
    match destination:
        case DicomDestination():
            return Format.SR
        case FhirDestination():
            return Format.FHIR
        case Hl7Destination():
            return Format.ORU
