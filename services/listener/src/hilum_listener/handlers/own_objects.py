"""Recognises what Hilum made itself, when a PACS sends it back."""

from pathlib import Path

from hilum.adapters.dicom.elements import File, opened
from hilum.domain.errors import Reject
from hilum.domain.identity import derive_uid

_CONTRIBUTING_EQUIPMENT, _SERIAL_NUMBER, _DEVICE_UID = 0x0018A001, 0x00181000, 0x00181002


def is_own(path: Path) -> bool:
    """True when an item of Contributing Equipment names a device whose UID Hilum derived from its serial number.

    The serial number is the model's digest (`hilum.domain.results.Result.device_uid`), so this needs no list of what
    was sent, holds for every model and version, and no other maker's object passes by accident.
    """
    try:
        with opened(path) as file:
            return names_own_device(file)
    except Reject:
        return False


def names_own_device(file: File) -> bool:
    """As `is_own`, of a file that is open. Raises `Reject` when its items cannot be scanned."""
    return any(
        serial and item.ascii(_DEVICE_UID) == derive_uid("device", serial)
        for item in file.dataset.items(_CONTRIBUTING_EQUIPMENT)
        for serial in (item.ascii(_SERIAL_NUMBER),)
    )
