"""A storage SCP for every storage class, radiographs compressed as well; it keeps the objects as DICOM files."""

from pynetdicom import AllStoragePresentationContexts, evt
from pynetdicom.transport import ThreadedAssociationServer

from hilum.adapters.dicom.implementation import own_entity
from hilum_standalone.receivers.kept import Kept

AE_TITLE = "DEMO_PACS"
_UNCOMPRESSED = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
_COMPRESSED = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.5")
_RADIOGRAPHS = ("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.1.1")
# pynetdicom copies every context and syntax for each association, which costs more than all the rest of it, so the
# receiver offers no more than it needs.
_SUCCESS, _CANNOT_UNDERSTAND = 0x0000, 0xC000


def serve(kept: Kept, *, host: str, port: int) -> ThreadedAssociationServer:
    """Starts the SCP on its own threads."""

    def store(event: evt.Event) -> int:
        try:
            uid = str(event.request.AffectedSOPInstanceUID)  # type: ignore[union-attr]
            content = event.encoded_dataset()  # Part 10: preamble, file meta, then the bytes as they came
        except (AttributeError, ValueError):
            return _CANNOT_UNDERSTAND  # PS3.4 B.2.3
        kept.keep(uid, "dcm", content)
        return _SUCCESS

    entity = own_entity(AE_TITLE)
    entity.maximum_associations = 100
    entity.add_supported_context("1.2.840.10008.1.1")  # Verification
    for context in AllStoragePresentationContexts:
        assert context.abstract_syntax is not None
        compressed = _COMPRESSED if context.abstract_syntax in _RADIOGRAPHS else ()
        entity.add_supported_context(context.abstract_syntax, [*_UNCOMPRESSED, *compressed])
    server = entity.start_server((host, port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    assert server is not None
    return server
