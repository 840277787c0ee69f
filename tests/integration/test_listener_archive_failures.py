"""Archives that hang, break off, answer nonsense or send something else, over real connections."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import time
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from hilum.domain.errors import Reject, Retry
from hilum.runtime.config import DicomArchive, DicomwebArchive
from hilum.testing.dicom_files import chest_image, write
from hilum_listener.handlers.archive import Held
from hilum_listener.handlers.arrivals import FetchedInstances
from hilum_listener.handlers.journal import JournalWriter
from hilum_listener.handlers.spool import Spool
from hilum_listener.settings import Places
from hilum_listener.testing import START, stored_files
from hilum_listener.transport.archive_dimse import DimseArchive
from hilum_listener.transport.archive_web import WebArchive

Answer = Callable[[BaseHTTPRequestHandler], None]
IMAGE = chest_image(np.arange(64, dtype=np.uint16).reshape(8, 8))
STUDY = str(IMAGE.StudyInstanceUID)
WANTED = Held(str(IMAGE.SeriesInstanceUID), str(IMAGE.SOPInstanceUID), str(IMAGE.SOPClassUID))


@contextmanager
def web(answer: Answer, *, timeout_s: float = 1.0) -> Iterator[WebArchive]:
    """An archive whose server answers every GET so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
    try:
        yield WebArchive(DicomwebArchive(name="pacs", kind="dicomweb", url=url, timeout_s=timeout_s))
    finally:
        server.shutdown()
        server.server_close()


def says(status: int, body: bytes = b"", media_type: str = "application/dicom+json", *, length: int = -1) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Type", media_type)
        request.send_header("Content-Length", str(len(body) if length < 0 else length))
        request.end_headers()
        request.wfile.write(body)

    return answer


def multipart(*files: bytes) -> tuple[bytes, str]:
    parts = b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n" for file in files)
    return parts + b"--b--\r\n", 'multipart/related; type="application/dicom"; boundary=b'


def arrivals(data: Path) -> FetchedInstances:
    places = Places(data)
    return FetchedInstances(
        Spool(places, min_free_bytes=0),
        JournalWriter(places.journal, started_at=START),
        lambda: START,
        study_instance_uid=STUDY,
        wanted=frozenset({WANTED.sop_instance_uid}),
        limit_bytes=1 << 20,
        calling_ae="PACS",
        association="fetch-missing-1",
        alive=lambda: True,
    )


def file_of(tmp_path: Path, **attributes: Any) -> bytes:
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
    return write(tmp_path / "held.dcm", chest_image(pixels, **attributes)).read_bytes()


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (says(503), Retry, "answered 503"),
        (says(401), Reject, "answered 401"),
        (says(302), Reject, "answered 302"),
        (says(200, b"<html>"), Retry, "no JSON"),
        (says(200, b'{"a": 1}'), Reject, "no list"),
        (says(200, b"[", length=100), Retry, "broke off"),
        (lambda _request: time.sleep(3), Retry, r"broke off \(ReadTimeout\)"),
    ],
)
def test_every_way_a_query_can_fail_says_whether_to_ask_again(
    answer: Answer, error: type[Exception], words: str
) -> None:
    with web(answer) as archive, pytest.raises(error, match=words):
        archive.instances(STUDY)


def test_an_archive_that_crawls_is_left() -> None:
    sent: list[int] = []

    def crawls(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "application/dicom+json")
        request.end_headers()
        for number in range(100):
            time.sleep(0.1)
            request.wfile.write(b" ")
            sent.append(number)

    with web(crawls) as archive, pytest.raises(Retry, match="too slowly"):
        archive.instances(STUDY)
    assert len(sent) < 60, "long before its end"


@pytest.mark.parametrize("knows_offset", [True, False])
def test_pages_are_asked_for_until_there_is_nothing_new(knows_offset: bool) -> None:
    rows = [{"00080018": {"vr": "UI", "Value": [f"1.2.{number}"]}} for number in range(501)]
    asked: list[str] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        query = parse_qs(urlsplit(request.path).query)
        asked.append(query["offset"][0])
        start = int(query["offset"][0]) if knows_offset else 0
        says(200, json.dumps(rows[start : start + int(query["limit"][0])]).encode())(request)

    with web(answer) as archive:
        assert len(archive.instances(STUDY)) == (501 if knows_offset else 500)
    assert asked == ["0", "500"]


def test_a_body_that_breaks_off_leaves_nothing_and_is_asked_for_again(tmp_path: Path) -> None:
    body, media_type = multipart(file_of(tmp_path))
    kept = arrivals(tmp_path)
    broken = says(200, body[:500], media_type, length=len(body))
    with web(broken) as archive, pytest.raises(Retry, match="WADO-RS broke off"):
        archive.fetch(STUDY, [WANTED], kept)
    assert stored_files(tmp_path / "spool") == []
    with web(says(200, body, media_type)) as archive:
        assert archive.fetch(STUDY, [WANTED], kept).completed == 1
    assert [path.read_bytes() for path in stored_files(tmp_path / "spool")] == [file_of(tmp_path)]


def test_of_a_body_with_more_than_was_asked_for_only_that_is_kept(tmp_path: Path) -> None:
    others = [
        file_of(tmp_path, study="other"),
        file_of(tmp_path, name="another-image"),
        file_of(tmp_path, study="other", SOPInstanceUID=WANTED.sop_instance_uid),
    ]
    wanted = file_of(tmp_path)
    body, media_type = multipart(*others, wanted)
    kept = arrivals(tmp_path)
    with web(says(200, body, media_type)) as archive:
        assert archive.fetch(STUDY, [WANTED], kept).completed == 1
    assert [path.read_bytes() for path in stored_files(tmp_path / "spool")] == [wanted]


@pytest.mark.parametrize(
    ("body", "media_type", "error"),
    [
        (b"{}", "application/json", Reject),
        (b"no boundary here" * 100, 'multipart/related; type="application/dicom"; boundary=b', Retry),
    ],
)
def test_something_else_than_files_is_refused(
    tmp_path: Path, body: bytes, media_type: str, error: type[Exception]
) -> None:
    with web(says(200, body, media_type)) as archive, pytest.raises(error):
        archive.fetch(STUDY, [WANTED], arrivals(tmp_path))


def test_no_address_is_made_of_what_is_no_uid(tmp_path: Path) -> None:
    hostile = Held("1.2/../../admin?", WANTED.sop_instance_uid, WANTED.sop_class_uid)
    with web(says(200)) as archive, pytest.raises(Reject, match="a UID that is none"):
        archive.fetch(STUDY, [hostile], arrivals(tmp_path))


def dicom(port: int, retrieve: Any = "c-get") -> DimseArchive:
    archive = DicomArchive(name="pacs", ae_title="PACS", host="127.0.0.1", port=port, timeout_s=1.0, retrieve=retrieve)
    return DimseArchive(archive, calling_ae="HILUM")


def test_an_archive_that_takes_connections_and_never_answers_is_left() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Retry, match="no association"):
        dicom(silent.getsockname()[1]).instances(STUDY)


@contextmanager
def entity(model: Any, *handlers: Any) -> Iterator[int]:
    """An archive that offers one service; its port."""
    ae = AE(ae_title="PACS")
    ae.add_supported_context(model)
    server: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=list(handlers))
    try:
        yield server.server_address[1]
    finally:
        ae.shutdown()


def test_an_archive_that_never_answers_a_c_get_is_left(tmp_path: Path) -> None:
    gone = threading.Event()

    def hangs(_event: evt.Event) -> Iterator[Any]:
        gone.wait(10)
        yield 0

    with entity(StudyRootQueryRetrieveInformationModelGet, (evt.EVT_C_GET, hangs)) as port:
        with pytest.raises(Retry, match="no answer to C-GET"):
            dicom(port).fetch(STUDY, [WANTED], arrivals(tmp_path))
        gone.set()


def test_an_archive_that_does_not_know_where_to_move_to_is_not_asked_again(tmp_path: Path) -> None:
    def nowhere(_event: evt.Event) -> Iterator[Any]:
        yield None, None  # pynetdicom answers A801 (PS3.4 table C.4-2)

    model = StudyRootQueryRetrieveInformationModelMove
    words = "does not know where HILUM is"
    with entity(model, (evt.EVT_C_MOVE, nowhere)) as port, pytest.raises(Reject, match=words):
        dicom(port, "c-move").fetch(STUDY, [WANTED], arrivals(tmp_path))


@pytest.mark.parametrize(("status", "error"), [(0xA701, Retry), (0xC000, Reject), (0xFE00, Retry)])
def test_a_failure_status_says_whether_to_ask_again(tmp_path: Path, status: int, error: type[Exception]) -> None:
    def answer(_event: evt.Event) -> Iterator[Any]:
        yield 1
        yield status, None

    model, words = StudyRootQueryRetrieveInformationModelGet, f"C-GET answered {status:04X}"
    with entity(model, (evt.EVT_C_GET, answer)) as port, pytest.raises(error, match=words):
        dicom(port).fetch(STUDY, [WANTED], arrivals(tmp_path))


def test_a_service_that_is_not_offered_is_not_asked_for_again(tmp_path: Path) -> None:
    with entity(WANTED.sop_class_uid) as port, pytest.raises(Reject, match="does not offer"):
        dicom(port).fetch(STUDY, [WANTED], arrivals(tmp_path))
