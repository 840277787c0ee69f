"""Every association that Hilum requests says whose it is, and so does every file that it writes."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import ComprehensiveSRStorage
from pynetdicom import AE, evt

from hilum.adapters.dicom.implementation import IMPLEMENTATION_CLASS_UID, own_entity
from hilum.runtime.config import DicomDestination, Peer
from hilum_listener.handlers.commitment import Outgoing
from hilum_listener.transport.event_report import NewAssociation
from hilum_results.transport.dicom import DicomSender

SERVICES = Path(__file__).parents[2] / "services"


class Port:
    """Refuses everybody and remembers as whom they came."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        entity = AE(ae_title="PACS")
        entity.add_supported_context(ComprehensiveSRStorage)
        self._server = entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_REQUESTED, self._requested)]
        )
        assert self._server is not None
        self.number = int(self._server.server_address[1])

    def _requested(self, event: evt.Event) -> None:
        requestor = event.assoc.requestor
        self.seen.append((str(requestor.implementation_class_uid), str(requestor.implementation_version_name)))

    def close(self) -> None:
        assert self._server is not None
        self._server.shutdown()


@pytest.fixture
def port() -> Iterator[Port]:
    found = Port()
    yield found
    found.close()


def test_results_and_commitment_reports_come_under_hilum_s_own_implementation_uid(port: Port) -> None:
    destination = DicomDestination(name="pacs", kind="dicom", ae_title="PACS", host="127.0.0.1", port=port.number)
    DicomSender(destination, calling_ae="HILUM").send(b"", "one")
    outgoing = Outgoing("n", "1.2", "PACS", "a", {"committed": [], "failed": []}, 1, 1)
    NewAssociation(own_ae="HILUM").send(outgoing, Peer(ae_title="PACS", host="127.0.0.1", port=port.number))
    assert port.seen == [(IMPLEMENTATION_CLASS_UID, "HILUM")] * 2


def test_no_code_of_hilum_s_makes_an_entity_under_another_name() -> None:
    assert own_entity("HILUM").implementation_class_uid == IMPLEMENTATION_CLASS_UID
    others = [
        path.name
        for path in SERVICES.glob("*/src/**/*.py")
        if not path.name.startswith("testing") and re.search(r"\bAE\(ae_title", path.read_text())
    ]
    assert others == ["scp.py"], "the receiver sets both names itself"
