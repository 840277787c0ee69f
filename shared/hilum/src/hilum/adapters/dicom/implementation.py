"""What Hilum calls itself on every association and in every file that it writes (PS3.7 D.3.3.2, PS3.10 7.1)."""

from typing import TYPE_CHECKING

from hilum.domain.identity import derive_uid

if TYPE_CHECKING:
    from pynetdicom import AE

IMPLEMENTATION_CLASS_UID = derive_uid("implementation", "hilum")
IMPLEMENTATION_VERSION = "HILUM"
"""Carries no release number, so that the same data set makes the same file under every release."""


def own_entity(ae_title: str) -> "AE":
    """An application entity of Hilum's, nothing set but its names."""
    from pynetdicom import AE  # large, and who only writes files needs none of it

    entity = AE(ae_title=ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION
    return entity
