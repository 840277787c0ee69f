"""The demo's receivers: what they keep, and what they answer."""

import json
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from hilum.testing.external import free_port
from hilum_standalone.receivers import fhir, mllp
from hilum_standalone.receivers.kept import Kept

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
ORU = b"MSH|^~\\&|HILUM|H|RIS||20261124||ORU^R01^ORU_R01|ABC123|P|2.5.1||||||UNICODE UTF-8\rPID|1||1\r"


def bundle(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": "transaction", "entry": list(entries)}


def entry(method: str, url: str, resource: dict[str, Any], full_url: str = "") -> dict[str, Any]:
    return {"fullUrl": full_url, "resource": resource, "request": {"method": method, "url": url}}


def test_the_same_bytes_again_are_kept_once_with_two_receipts(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    assert [kept.keep("1.2.3", "dcm", b"a"), kept.keep("1.2.3", "dcm", b"a")] == ["1.2.3.dcm", "1.2.3.dcm"]
    receipts = [json.loads(line) for line in (tmp_path / "receipts.jsonl").read_text().splitlines()]
    assert [r["identity"] for r in receipts] == ["1.2.3", "1.2.3"]
    assert receipts[0]["sha256"] == receipts[1]["sha256"]


def test_other_bytes_under_the_same_name_are_kept_beside(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    assert [kept.keep("1.2.3", "dcm", b"a"), kept.keep("1.2.3", "dcm", b"b")] == ["1.2.3.dcm", "1.2.3~2.dcm"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/a/b", "", "..", "a\0b", "x" * 500])
def test_no_name_leaves_the_folder(tmp_path: Path, name: str) -> None:
    Kept(tmp_path / "in").keep(name, "hl7", b"a")
    assert [path.parent for path in tmp_path.rglob("*.hl7")] == [tmp_path / "in"]


def test_an_ack_names_the_message_and_turns_sender_and_receiver_round() -> None:
    ack, control_id = mllp.acknowledge(ORU, now=NOW)
    header, msa = ack.decode().split("\r")[:2]
    assert control_id == "ABC123"
    assert header.split("|")[2:6] == ["RIS", "", "HILUM", "H"]
    assert header.split("|")[8] == "ACK^R01^ACK"
    assert msa == "MSA|AA|ABC123"


@pytest.mark.parametrize("message", [b"", b"PID|1", b"MSH|^~\\&|A", b"MSH|^~\\&|A|B|C|D|E||ORU^R01||P|2.5.1\r"])
def test_a_message_without_a_usable_header_is_an_application_error(message: bytes) -> None:
    ack, control_id = mllp.acknowledge(message, now=NOW)
    assert control_id == ""
    assert b"MSA|AE|" in ack


def test_mllp_messages_in_one_and_in_several_packets_are_each_acknowledged_and_kept(tmp_path: Path) -> None:
    port = free_port()
    server = mllp.serve(Kept(tmp_path), host="127.0.0.1", port=port)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
            framed = b"\x0b" + ORU + b"\x1c\r"
            peer.sendall(framed + framed.replace(b"ABC123", b"ABC124")[:20])
            peer.sendall(framed.replace(b"ABC123", b"ABC124")[20:])
            answer = b""
            while answer.count(b"\x1c\r") < 2:
                answer += peer.recv(4096)
    finally:
        server.shutdown()
        server.server_close()
    assert b"MSA|AA|ABC123" in answer
    assert b"MSA|AA|ABC124" in answer
    assert (tmp_path / "ABC123.hl7").read_bytes() == ORU


def test_a_conditional_update_creates_once_and_then_updates_the_same_resource(tmp_path: Path) -> None:
    store = fhir.Store(tmp_path / "index.json")
    put = entry("PUT", "Observation?identifier=a%7C1", {"resourceType": "Observation"})
    first = fhir.transact(bundle(put), store, now=NOW)["entry"][0]["response"]
    second = fhir.transact(bundle(put), store, now=NOW)["entry"][0]["response"]
    assert (first["status"], second["status"]) == ("201 Created", "200 OK")
    assert first["location"].split("/_history/")[0] == second["location"].split("/_history/")[0]
    assert second["etag"] == 'W/"2"'


def test_references_between_entries_become_the_places_they_went_to(tmp_path: Path) -> None:
    store = fhir.Store(tmp_path / "index.json")
    patient = entry("POST", "Patient", {"resourceType": "Patient"}, "urn:uuid:1")
    subject = {"resourceType": "Observation", "subject": {"reference": "urn:uuid:1"}}
    answer = fhir.transact(bundle(patient, entry("POST", "Observation", subject)), store, now=NOW)
    places = [e["response"]["location"].split("/_history/")[0] for e in answer["entry"]]
    assert store.resources[places[1]]["subject"]["reference"] == places[0]


def test_a_bundle_with_one_bad_entry_stores_nothing(tmp_path: Path) -> None:
    store = fhir.Store(tmp_path / "index.json")
    good = entry("POST", "Patient", {"resourceType": "Patient"})
    with pytest.raises(fhir.Refused):
        fhir.transact(bundle(good, entry("PUT", "Patient?x=1", {"resourceType": "Observation"})), store, now=NOW)
    assert store.resources == {}


def test_the_endpoint_answers_keeps_and_remembers_over_a_restart(tmp_path: Path) -> None:
    body = {**bundle(entry("PUT", "Patient?identifier=x", {"resourceType": "Patient"})), "identifier": {"value": "B1"}}
    statuses = []
    for _ in range(2):
        server = fhir.serve(Kept(tmp_path / "fhir"), tmp_path / "index.json", host="127.0.0.1", port=free_port())
        url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            assert httpx.get(f"{url}/metadata").json()["fhirVersion"] == "4.0.1"
            answer = httpx.post(url, content=json.dumps(body)).json()
            statuses.append(answer["entry"][0]["response"]["status"])
            place = answer["entry"][0]["response"]["location"].split("/_history/")[0]
            assert httpx.get(f"{url}/{place}").json()["resourceType"] == "Patient"
            refused = httpx.post(url, content=b'{"resourceType": "Patient"}')
            assert (refused.status_code, refused.json()["resourceType"]) == (400, "OperationOutcome")
        finally:
            server.shutdown()
            server.server_close()
    assert statuses == ["201 Created", "200 OK"]
    assert [path.name for path in (tmp_path / "fhir").glob("*.json")] == ["B1.json"]
