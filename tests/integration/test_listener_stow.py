"""The STOW-RS process, met over HTTP by good senders: what it takes, and what it answers."""

import gzip
import http.client
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from pydicom.data import get_testdata_file

from hilum.adapters.folder import FolderInstances
from hilum.testing.dicom_files import write
from hilum_listener.testing_scp import Running, small_image
from hilum_listener.testing_stow import MEDIA_TYPE, body_of, post, start_stow


@pytest.fixture(scope="module")
def stow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start_stow(tmp_path_factory.mktemp("stow"))
    with running.process:
        yield running


def part10(folder: Path, name: str, **attributes: object) -> bytes:
    return write(folder / "sent.dcm", small_image(name, **attributes)).read_bytes()


def uid_of(name: str) -> str:
    return str(small_image(name).SOPInstanceUID)


def test_real_files_are_stored_as_they_came_and_named_in_the_answer(stow: Running) -> None:
    names = ("CT_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "image_dfl.dcm", "MR_small_bigendian.dcm")
    paths = [Path(str(get_testdata_file(name))) for name in names]
    answer = post(stow.port, body_of([path.read_bytes() for path in paths]))
    assert (answer.status, answer.headers["content-type"]) == (200, "application/dicom+json")
    uids = [str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in paths]
    assert answer.stored == uids
    spool = FolderInstances(stow.data / "spool")
    kept = {spool.path(entry.uri).read_bytes() for entry in stow.received()}
    assert {path.read_bytes() for path in paths} <= kept


def test_dicomweb_client_stores_what_pydicom_reads_back(stow: Running) -> None:
    datasets = [dcmread(str(get_testdata_file(name))) for name in ("CT_small.dcm", "MR_small.dcm")]
    client = DICOMwebClient(f"http://127.0.0.1:{stow.port}")
    answer = client.store_instances(datasets)
    assert [item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence] == [
        dataset.SOPInstanceUID for dataset in datasets
    ]
    for dataset in datasets:
        assert dcmread(stow.stored(dataset.SOPInstanceUID)).PixelData == dataset.PixelData
    answer = client.store_instances(datasets[:1], study_instance_uid=datasets[0].StudyInstanceUID)
    assert "FailedSOPSequence" not in answer


def test_a_body_in_chunks_is_taken(stow: Running, tmp_path: Path) -> None:
    body = body_of([part10(tmp_path, "chunks")])
    answer = post(stow.port, iter([body[:10], body[10:300], body[300:]]))
    assert (answer.status, answer.stored) == (200, [uid_of("chunks")])


def test_xml_is_answered_to_those_who_take_nothing_else(stow: Running, tmp_path: Path) -> None:
    answer = post(stow.port, body_of([part10(tmp_path, "xml")]), Accept="application/dicom+xml")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/dicom+xml")
    assert uid_of("xml") in answer.body.decode()
    assert post(stow.port, body_of([b""]), Accept="image/png").status == 406


def test_the_study_of_the_url_is_the_only_one_taken(stow: Running, tmp_path: Path) -> None:
    body = body_of([part10(tmp_path, "mine")])
    study = str(small_image("mine").StudyInstanceUID)
    assert post(stow.port, body, path=f"/studies/{study}").status == 200
    other = post(stow.port, body, path="/studies/1.2.3")
    assert (other.status, other.failed) == (409, {uid_of("mine"): 0xA901})
    assert post(stow.port, body, path="/studies/1.2.x").status == 400
    assert post(stow.port, body, path="/studies/..%2f..%2fetc").status == 404
    assert post(stow.port, body, path="/studies/%2e%2e").status == 400


def test_some_stored_and_some_not_is_202_and_says_which(stow: Running, tmp_path: Path) -> None:
    answer = post(stow.port, body_of([part10(tmp_path, "good"), b"bad"]))
    assert (answer.status, answer.stored, answer.other_failures) == (202, [uid_of("good")], [0xC000])
    assert post(stow.port, body_of([b"bad"])).status == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Encoding": "gzip"}, 415),
        ({"Content_Type": "application/dicom"}, 415),
        ({"Content_Type": 'multipart/related; type="application/dicom+json"; boundary=x'}, 415),
        ({"Content_Type": 'multipart/related; type="application/dicom"'}, 400),
        ({"Content_Length": "99999999999999999"}, 413),
        ({"Origin": "http://evil.example"}, 403),
    ],
)
def test_what_cannot_be_taken_is_refused_before_its_body(
    stow: Running, tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    body = gzip.compress(bytes(1000)) if "Content_Encoding" in headers else body_of([part10(tmp_path, "refused")])
    answer = post(stow.port, body, connection=None, **headers)
    assert (answer.status, answer.stored) == (status, [])
    assert answer.body


def test_other_methods_and_addresses_are_not_served(stow: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", stow.port, timeout=20)
    for method, path, status in (("GET", "/studies", 405), ("DELETE", "/studies/1.2", 405), ("POST", "/", 404)):
        connection.request(method, path)
        response = connection.getresponse()
        response.read()
        assert response.status == status
    connection.close()


def test_one_connection_serves_many_requests(stow: Running, tmp_path: Path) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", stow.port, timeout=20)
    for name in ("first", "second", "third"):
        assert post(stow.port, body_of([part10(tmp_path, name)]), connection=connection).status == 200
        assert post(stow.port, body_of([b"x"]), connection=connection, Accept="image/png").status == 406
    connection.close()


def test_a_sender_that_holds_small_pieces_back_until_the_last_is_acknowledged_never_waits_40_ms(
    stow: Running, tmp_path: Path
) -> None:
    body, seconds = body_of([part10(tmp_path, "nagle")]), []
    head = f"POST /studies HTTP/1.1\r\nHost: x\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", stow.port), timeout=20) as connection:  # Nagle's algorithm is on
        for _ in range(41):
            begin, answer = time.monotonic(), b""
            for piece in (head.encode(), body[:50], body[50:800], body[800:]):
                connection.sendall(piece)
            while not answer.endswith(b"}"):
                answer += connection.recv(10_000)
            seconds.append(time.monotonic() - begin)
    assert median(seconds) < 0.035
