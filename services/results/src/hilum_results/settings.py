"""What the results service is told: one frozen class."""

from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from hilum.domain.results import Format
from hilum.runtime.config import AnyDestination, DicomDestination, FhirDestination, Hl7Destination, Site


class Settings(BaseModel):
    """What one process of the results service is told.

    Attributes:
        lease: how long a claim holds without a sign of life from its process, which renews it while it sends.
        in_flight: how many deliveries may be under way at one destination, over all processes.
        overdue: what has been due for so long and nobody took is delivered by the sweep itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path
    ae_title: str = "HILUM"
    time_zone: str = "UTC"
    institution: str = ""
    destinations: tuple[AnyDestination, ...] = ()
    lease: timedelta = timedelta(seconds=6)
    in_flight: int = Field(default=2, ge=1)
    overdue: timedelta = timedelta(seconds=2)
    first_retry: timedelta = timedelta(seconds=1)
    longest_retry: timedelta = timedelta(seconds=300)
    keep_events: timedelta = timedelta(days=7)

    @classmethod
    def of(cls, site: Site, *, data: Path) -> "Settings":
        """From `hilum.toml`."""
        return cls(
            data=data,
            ae_title=site.ae_title,
            time_zone=site.time_zone,
            institution=site.institution,
            destinations=site.destinations,
            lease=timedelta(seconds=site.results.lease_s),
            in_flight=site.results.in_flight,
            first_retry=timedelta(seconds=site.results.first_retry_s),
            longest_retry=timedelta(seconds=site.results.longest_retry_s),
            keep_events=timedelta(days=site.results.keep_events_days),
        )

    @property
    def served(self) -> dict[str, Format]:
        """The destinations by name, each with its format."""
        return {destination.name: format_of(destination) for destination in self.destinations}

    def longest_send(self, destination: AnyDestination) -> timedelta:
        """Longer than any attempt takes that ends by its own timeouts: connecting, asking, sending, waiting."""
        return timedelta(seconds=4 * destination.timeout_s + 5)


def format_of(destination: AnyDestination) -> Format:
    """The one format that a destination of this kind takes."""
    match destination:
        case DicomDestination():
            return Format.SR
        case FhirDestination():
            return Format.FHIR
        case Hl7Destination():
            return Format.ORU
