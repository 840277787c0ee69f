"""Which way to send a destination takes, and what carries its deliveries there."""

import random
import threading

from sqlalchemy import Engine

from hilum.ports.clock import Clock
from hilum.runtime.config import AnyDestination, DicomDestination, FhirDestination, Hl7Destination
from hilum.runtime.logs import Log
from hilum_results.settings import Settings
from hilum_results.transport.carrier import Carrier
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


def carrier_of(
    destination: AnyDestination, settings: Settings, engine: Engine, *, clock: Clock, stop: threading.Event, log: Log
) -> Carrier:
    return Carrier(
        destination,
        sender_of(destination, settings),
        settings=settings,
        engine=engine,
        clock=clock,
        stop=stop,
        log=log,
        chance=random.Random(),
    )
