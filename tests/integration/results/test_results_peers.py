"""Each answer of a peer has its own end: Orthanc, DCMTK's storescp, an HTTP server and an MLLP listener."""

import io
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian

from hilum.adapters.sql import tables
from hilum.testing import results as samples
from hilum.testing.external import Process, answers, free_port, need
from hilum.testing.orthanc import orthanc
from hilum.testing.receivers import Receiver
from hilum_results.testing import ResultsSite, dicom, fhir_to, hl7_to, nodule


@pytest.mark.parametrize(
    ("replies", "state", "sent"),
    [
        (["AA"], "accepted", 1),
        (["late"], "accepted", 1),
        (["AR", "CR", "CA"], "accepted", 3),
        ([None, "AA"], "accepted", 2),
        (["AE"], "parked", 1),
    ],
)
def test_each_acknowledgement_has_its_own_end_and_a_resend_is_the_same_message(
    site: ResultsSite, mllp_receiver: Receiver, replies: list[Any], state: str, sent: int
) -> None:
    mllp = mllp_receiver(replies)
    with site.running(hl7_to(mllp.port)):
        site.publish(nodule())
        site.wait("ris", state)
    assert len(mllp.script.got) == sent
    assert len(set(mllp.script.got)) == 1
    assert "said so" in site.rows(tables.deliveries)[0].reason


@pytest.mark.parametrize(
    ("replies", "state"),
    [
        ([(503, b"later"), (429, b""), (201, b"")], "accepted"),
        ([(422, b'{"resourceType":"OperationOutcome","issue":[{"diagnostics":"no such patient"}]}')], "parked"),
    ],
)
def test_a_fhir_server_that_is_busy_is_asked_again_and_one_that_refuses_is_not(
    site: ResultsSite, http_receiver: Receiver, replies: list[Any], state: str
) -> None:
    http = http_receiver(replies)
    with site.running(fhir_to(http.port)):
        site.publish(nodule())
        site.wait("fhir", state)
    assert len(http.script.got) == len(replies)
    assert set(http.script.got) == {site.content("fhir")}
    if state == "parked":
        assert site.rows(tables.deliveries)[0].reason == "HTTP 422: no such patient"


def test_orthanc_takes_the_sr_and_gives_the_same_object_back(site: ResultsSite) -> None:
    with orthanc(site.folder) as pacs:
        with site.running(dicom(pacs.dicom_port)):
            site.publish(nodule())
            site.wait("pacs", "accepted")
        files = pacs.files()
    assert len(files) == 1
    report = pydicom.dcmread(io.BytesIO(files[0]))
    assert report.SOPInstanceUID == pydicom.dcmread(io.BytesIO(site.content("sr"))).SOPInstanceUID
    assert str(report.PatientName) == samples.HEADER.patient.name
    assert report.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


def test_a_peer_that_takes_no_sr_parks_the_delivery_with_the_reason(site: ResultsSite) -> None:
    port = free_port()
    program = need("storescp", install="dcmtk")
    profile = site.folder / "only-ct.cfg"
    profile.write_text(
        "[[TransferSyntaxes]]\n[Any]\nTransferSyntax1 = LittleEndianImplicit\n"
        "[[PresentationContexts]]\n[CT]\nPresentationContext1 = CTImageStorage\\Any\n"
        "[[Profiles]]\n[Default]\nPresentationContexts = CT\n"
    )
    command: list[str | Path] = [
        program,
        "--config-file",
        profile,
        "Default",
        "--output-directory",
        site.folder,
        str(port),
    ]
    with (
        Process(command, log=site.folder / "storescp.log").wait_until(lambda: answers(port)),
        site.running(dicom(port)),
    ):
        site.publish(nodule())
        site.wait("pacs", "parked")
    assert "Comprehensive 3D SR" in site.rows(tables.deliveries)[0].reason
