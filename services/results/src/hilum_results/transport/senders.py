"""Which way to send a destination takes."""

from hilum.runtime.config import AnyDestination, DicomDestination, FhirDestination, Hl7Destination
from hilum_results.settings import Settings
from hilum_results.transport.dicom import DicomSender
from hilum_results.transport.fhir import FhirSender
from hilum_results.transport.mllp import MllpSender
from hilum_results.transport.sender import Sender


def sender_of(destination: AnyDestination, settings: Settings) -> Sender:
    match destination:
        case DicomDestination():
            return DicomSender(destination, calling_ae=settings.ae_title)
        case FhirDestination():
            return FhirSender(destination)
        case Hl7Destination():
            return MllpSender(destination)
