"""The journal entry of a Part 10 file that came by another way than C-STORE."""

from datetime import datetime

from hilum_listener.handlers.journal import InstanceReceived
from hilum_listener.handlers.part10 import Identity
from hilum_listener.handlers.spool import Stored


def entry_of(
    stored: Stored, identity: Identity, *, calling_ae: str, peer: str, association: str, received_at: datetime
) -> InstanceReceived:
    return InstanceReceived(
        uri=stored.uri,
        size=stored.size,
        sop_instance_uid=identity.sop_instance_uid,
        sop_class_uid=identity.sop_class_uid,
        transfer_syntax_uid=identity.transfer_syntax_uid,
        calling_ae=calling_ae,
        peer=peer,
        association=association,
        received_at=received_at,
    )
