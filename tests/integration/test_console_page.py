"""The console as a process of its own, met over HTTP and in a real browser."""

import http.client
import json
import re
import socket
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from playwright.sync_api import ConsoleMessage, Dialog, Page, sync_playwright

from hilum.adapters.sql import ledger
from hilum.adapters.sql.database import database_path, open_database, reading, transaction
from hilum.adapters.sql.schema import migrate
from hilum.adapters.sql.tables import instances, retrievals, studies
from hilum.domain.inference import Lane
from hilum.domain.results import AiState, Format
from hilum.testing.external import Process, need
from hilum.testing.seeding import Said, SeededStudy
from hilum.testing.varied_studies import BYTES, HOSTILE, fill


class Served:
    """A running console: its folder, its port, and the studies by name."""

    def __init__(self, data: Path, port: int, process: Process, uids: dict[str, str]) -> None:
        self.data, self.port, self.process, self.uids = data, port, process, uids

    def get(
        self, path: str, *, host: str | None = None, method: str = "GET"
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, headers={"Host": host if host is not None else f"127.0.0.1:{self.port}"})
        answer = connection.getresponse()
        found = answer.status, answer.headers, answer.read()
        connection.close()
        return found

    def json(self, path: str) -> Any:
        status, _, body = self.get(path)
        assert status == 200, body
        return json.loads(body)


def console(*options: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "hilum_console", *options]


def start(data: Path, log: Path) -> tuple[Process, int]:
    process = Process(console("--data", data, "--port", "0"), log=log)
    port_file = data / "run" / "console.port"
    process.wait_until(port_file.exists, timeout_s=60)
    return process, int(port_file.read_text())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data = tmp_path_factory.mktemp("console")
    engine = open_database(database_path(data))
    migrate(engine)
    with transaction(engine) as connection:
        uids = fill(connection, data, now=datetime.now(UTC))
    engine.dispose()
    process, port = start(data, data / "console.log")
    with process:
        yield Served(data, port, process, uids)


def test_the_page_is_bound_to_the_loopback_interface_only(served: Served) -> None:
    inodes = {
        Path(f"/proc/{served.process.pid}/fd/{fd.name}").readlink().name
        for fd in Path(f"/proc/{served.process.pid}/fd").iterdir()
    }
    listening = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and f"socket:[{line.split()[9]}]" in inodes
    ]
    assert listening == [f"0100007F:{served.port:04X}"]


def test_another_address_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    options = console("--data", tmp_path / "d", "--port", "0", "--host", "0.0.0.0")
    process = Process(options, log=tmp_path / "log")
    assert process.popen.wait(60) == 2
    assert "127.0.0.1 only" in process.tail()
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("path", ["/", "/api/studies", "/healthz", "/static/list.js"])
def test_a_request_under_another_host_name_gets_nothing(served: Served, path: str) -> None:
    status, headers, body = served.get(path, host=f"rebound.example:{served.port}")
    assert status == 421
    assert b"studies" not in body
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert served.get(path, host=f"localhost:{served.port}")[0] == 200


def test_nothing_can_be_written(served: Served) -> None:
    assert served.get("/", method="POST")[0] == 405
    assert served.get("/", method="DELETE")[0] == 405


def test_every_answer_forbids_inline_script_and_foreign_content(served: Served) -> None:
    uid = served.uids["pneumothorax"]
    for path in (
        "/",
        f"/studies/{uid}",
        "/trouble",
        "/nothing",
        "/api/studies",
        "/api/studies/1.2.3",
        "/static/list.js",
    ):
        _, headers, body = served.get(path)
        policy = headers["Content-Security-Policy"]
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        if not headers["Content-Type"].startswith("text/html"):
            continue
        text = body.decode()
        assert not re.search(r"<script(?![^>]*\bsrc=\"/static/)[^>]*>", text), path
        assert not re.search(r"""\son\w+=|style=|(?:src|href)=["']?(?:https?:)?//""", _outside_text(text)), path


def _outside_text(page: str) -> str:
    """The page's tags without what they quote from studies (escaped, so it holds no `<`)."""
    return "".join(re.findall(r"<[^>]*>", page))


def test_a_script_in_a_patient_s_name_or_in_the_model_s_text_is_shown_as_text(served: Served) -> None:
    for path in ("/", f"/studies/{served.uids['hostile']}"):
        text = served.get(path)[2].decode()
        assert "<script>document" not in text
        assert "<img src=x" not in text
        assert "&lt;script&gt;document" in text
        assert "\u202e" not in text


def test_the_list_stands_in_reading_order_with_a_reason_for_each_place(served: Served) -> None:
    told = served.json("/api/studies")["studies"]
    names = {uid: name for name, uid in served.uids.items()}
    assert [names[s["study_uid"]] for s in told][:3] == ["overdue", "stat", "receiving"]
    assert [s["place"]["position"] for s in told] == list(range(1, len(told) + 1))
    assert all(s["place"]["reason"] for s in told)
    text = served.get("/")[2].decode()
    shown = re.findall(r'data-href="/studies/([0-9.]+)"', text)
    assert shown == [s["study_uid"] for s in told]
    assert "lifted by AI: Pneumothorax; ordered routine" in text
    assert "AI did not run: modality CT is not CR/DX" in text


def test_the_study_api_has_the_state_on_top_and_the_boxes_in_pixels(served: Served) -> None:
    told = served.json(f"/api/studies/{served.uids['pneumothorax']}")
    assert told["state"] == "positive"
    assert told["findings"][0]["box"] == {"left": 290.0, "top": 84.0, "right": 430.0, "bottom": 228.0}
    assert served.get("/api/studies/1.2.3")[0] == 404


def test_images_come_as_png_and_only_under_their_own_study(served: Served) -> None:
    uid = served.uids["cine"]
    image = served.json(f"/api/studies/{uid}")["images"][0]["sop_instance_uid"]
    status, headers, body = served.get(f"/studies/{uid}/images/{image}/5.png")
    assert (status, headers["Content-Type"], body[:4]) == (200, "image/png", b"\x89PNG")
    assert served.get(f"/studies/{uid}/images/{image}/6.png")[0] == 404
    assert served.get(f"/studies/{uid}/images/{image}/0.png")[0] == 404
    assert served.get(f"/studies/{served.uids['stat']}/images/{image}/1.png")[0] == 404


def test_an_image_whose_file_is_gone_is_an_error_with_its_reason(served: Served) -> None:
    uid = served.uids["failed"]
    image = served.json(f"/api/studies/{uid}")["images"][0]["sop_instance_uid"]
    status, _, body = served.get(f"/studies/{uid}/images/{image}/1.png")
    assert (status, body) == (503, b"the instance is not in the store")


def test_downloads_are_the_stored_bytes(served: Served) -> None:
    uid = served.uids["pneumothorax"]
    for name, format in (("sr.dcm", Format.SR), ("bundle.json", Format.FHIR), ("oru.hl7", Format.ORU)):
        status, headers, body = served.get(f"/studies/{uid}/revisions/1/{name}")
        assert (status, body) == (200, BYTES[format])
        assert headers["Content-Disposition"] == f'attachment; filename="{name}"'
    assert served.get(f"/studies/{uid}/revisions/2/sr.dcm")[0] == 404
    assert served.get(f"/studies/{uid}/revisions/1/..%2Fhilum.db")[0] == 404


def test_without_a_ledger_the_page_says_that_hilum_is_starting_and_then_shows_the_list(tmp_path: Path) -> None:
    process, port = start(tmp_path, tmp_path / "log")
    with process:
        served = Served(tmp_path, port, process, {})
        status, _, body = served.get("/")
        assert (status, b"Hilum is starting" in body) == (503, True)
        assert served.get("/healthz")[0] == 503
        engine = open_database(database_path(tmp_path))
        migrate(engine)
        status, _, body = served.get("/")
        assert (status, b"No study has arrived yet" in body) == (200, True)
        assert served.json("/healthz") == {"status": "ok"}
        engine.dispose()
        assert process.stop() == 0
    assert not (tmp_path / "run" / "console.port").exists()


def test_a_study_that_left_the_reading_list_is_among_all_studies_and_says_so(tmp_path: Path) -> None:
    engine = open_database(database_path(tmp_path))
    migrate(engine)
    with transaction(engine) as connection:
        old = SeededStudy(connection, "old", start=datetime(2020, 1, 1, tzinfo=UTC))
        old.image(np.zeros((20, 20), np.uint16))
        old.complete()
        old.end(AiState.FAILED, "unreadable pixels")
    engine.dispose()
    process, port = start(tmp_path, tmp_path / "log")
    with process:
        served = Served(tmp_path, port, process, {})
        first = served.get("/")[2].decode()
        assert "No study waits to be read." in first
        assert '<a class="count" href="/all"><b>1</b> more, ended earlier</a>' in first
        everything = served.get("/all?page=7")[2].decode()
        assert f'<a href="/studies/{old.uid}">' in everything
        assert "unreadable pixels" in everything
        assert "not on the reading list" in served.get(f"/studies/{old.uid}")[2].decode()
        assert served.json(f"/api/studies/{old.uid}")["place"] is None
        for odd in ("-1", "x", "9" * 30, "1e3"):
            assert served.get(f"/?page={odd}")[0] == 200


def test_a_port_that_is_taken_is_an_error_that_names_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = Process(console("--data", tmp_path, "--port", str(port)), log=tmp_path / "log")
        assert process.popen.wait(60) == 2
    assert f"port {port} of 127.0.0.1 can't be used" in process.tail()


def test_no_patient_is_named_in_the_log(served: Served) -> None:
    served.get("/")
    log = (served.data / "console.log").read_text()
    assert "listening" in log
    for secret in ("Jérôme", "4711-0815", HOSTILE, "overdue"):
        assert secret not in log


def test_the_first_page_of_500_studies_is_rendered_within_150_milliseconds_of_processor_time(tmp_path: Path) -> None:
    """Processor time, since the machine that runs the tests has other work as well."""
    engine = open_database(database_path(tmp_path))
    migrate(engine)
    pixels = np.zeros((20, 20), np.uint16)
    with transaction(engine) as connection:
        for number in range(500):
            study = SeededStudy(connection, f"s{number}", start=datetime.now(UTC))
            study.image(pixels)
            study.complete()
            study.route(Lane.ROUTINE)
            study.result([Said("Nodule", (1, 2, 3, 4), 0.8)] * (number % 3), bytes_of=BYTES)
    process, port = start(tmp_path, tmp_path / "log")
    with process:
        served = Served(tmp_path, port, process, {})
        served.get("/healthz")
        spent: list[float] = []
        for _ in range(3):
            with transaction(engine) as connection:  # so that nothing comes from the snapshot or the rows kept
                connection.execute(sa.update(studies).values(calling_ae="A", description=f"turn {len(spent)}"))
            before = _processor_s(process.pid)
            status, _, body = served.get("/")
            spent.append(_processor_s(process.pid) - before)
            assert (status, body.count(b"data-href=")) == (200, 100)
        pages = [served.get(f"/?page={number}")[2].decode() for number in range(1, 6)]
        assert "page <b>1</b> of 5" in pages[0]
        shown = [uid for page in pages for uid in re.findall(r'data-href="/studies/([0-9.]+)"', page)]
        assert (len(shown), len(set(shown))) == (500, 500)
        told = [
            study["place"]["position"]
            for n in range(1, 6)
            for study in served.json(f"/api/studies?page={n}")["studies"]
        ]
        assert told == list(range(1, 501))
    engine.dispose()
    assert min(spent) < 0.15


def _processor_s(pid: int) -> float:
    """User and system time of a process in seconds, from /proc (ticks of 10 ms)."""
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / 100


# --- in a browser -----------------------------------------------------------------------------------------------------


def test_an_answer_is_not_held_back_until_its_first_piece_is_acknowledged(served: Served) -> None:
    """Nagle's algorithm is off, or each answer on a connection that stays open would take 40 ms more."""
    connection, seconds = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20), []
    for _ in range(41):
        begin = time.monotonic()
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        seconds.append(time.monotonic() - begin)
    connection.close()
    assert median(seconds) < 0.035


@pytest.fixture
def page() -> Iterator[Page]:
    chromium = need("chromium", install="chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield browser.new_page(viewport={"width": 1280, "height": 800})
        browser.close()


def test_the_boxes_on_the_image_are_the_pixel_boxes_of_the_ledger(served: Served, page: Page) -> None:
    uid = served.uids["pneumothorax"]
    engine = open_database(database_path(served.data))
    with reading(engine) as connection:
        detail = ledger.show_study(connection, uid)
    engine.dispose()
    assert detail is not None
    assert detail.latest is not None
    assert detail.latest.result is not None
    page.goto(f"http://127.0.0.1:{served.port}/studies/{uid}")
    page.locator("#loading").wait_for(state="hidden")
    picture = page.locator("#picture").bounding_box()
    assert picture is not None
    scale = picture["width"] / 500  # the test's images have 500 columns
    assert scale == pytest.approx(picture["height"] / 600, rel=1e-3)
    for number, finding in enumerate(detail.latest.result.findings, start=1):
        shown = page.locator(f"#box-{number}").bounding_box()
        assert shown is not None
        box = finding.box
        found = [
            (shown["x"] - picture["x"]) / scale,
            (shown["y"] - picture["y"]) / scale,
            (shown["x"] + shown["width"] - picture["x"]) / scale,
            (shown["y"] + shown["height"] - picture["y"]) / scale,
        ]
        assert found == pytest.approx([box.left, box.top, box.right, box.bottom], abs=3)  # within the line's width
        attributes = {name: page.locator(f"#box-{number}").get_attribute(name) for name in ("x", "y")}
        assert attributes == {"x": str(box.left), "y": str(box.top)}
    page.keyboard.press("b")
    assert page.locator(".box:visible").count() == 0
    page.keyboard.press("b")
    assert page.locator(".box:visible").count() == 3
    page.locator(".finding").nth(1).hover()
    assert page.locator("#box-2").get_attribute("class") == "box active"


def test_hostile_text_does_nothing_in_a_browser(served: Served, page: Page) -> None:
    dialogs: list[str] = []
    refused: list[str] = []

    def dismiss(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    def note(message: ConsoleMessage) -> None:
        if "Content Security" in message.text:
            refused.append(message.text)

    page.on("dialog", dismiss)
    page.on("console", note)
    for path in ("/", f"/studies/{served.uids['hostile']}"):
        page.goto(f"http://127.0.0.1:{served.port}{path}")
        page.wait_for_timeout(2600)  # one live update included
        assert page.title() != "owned"
    assert page.locator("#labels text").first.text_content() == "1  <b>Nodule</b> 0.50"
    assert (dialogs, refused) == ([], [])


def test_the_list_updates_itself_and_keeps_the_selection(served: Served, page: Page) -> None:
    page.goto(f"http://127.0.0.1:{served.port}/")
    page.keyboard.press("j")
    page.keyboard.press("j")
    before = page.locator("tr.selected").get_attribute("id")
    assert before is not None
    engine = open_database(database_path(served.data))
    with transaction(engine) as connection:
        study = SeededStudy(connection, f"new {time.time_ns()}", start=datetime(2020, 1, 1, tzinfo=UTC))
        study.image(np.zeros((20, 20), np.uint16))
    engine.dispose()
    page.locator(f'tr[data-href="/studies/{study.uid}"]').wait_for(timeout=15_000)
    first = page.locator("#rows tr").first
    assert first.get_attribute("data-href") == f"/studies/{study.uid}"
    assert page.locator("tr.selected").get_attribute("id") == before
    page.keyboard.press("Enter")
    page.wait_for_url("**/studies/*")


def test_the_earlier_studies_that_were_fetched_stand_on_the_page_with_their_images(served: Served) -> None:
    uid, prior = served.uids["pneumothorax"], "1.2.3.99"
    engine = open_database(database_path(served.data))
    now = datetime.now(UTC)
    with transaction(engine) as connection:
        for target, state, reason in (
            (prior, "done", "2 images are here"),
            ("1.2.3.98", "failed", "archive <pacs>: away"),
        ):
            connection.execute(
                sa.insert(retrievals).values(
                    study_instance_uid=uid, kind="prior", target_uid=target, state=state, attempts=1, token=1,
                    due_at=now, reason=reason, archive="pacs", sender_ae="", instances=[], came=1,
                    study_date="20251103", asked_at=now, finished_at=now,
                )
            )  # fmt: skip
        source = sa.select(instances).where(instances.c.study_instance_uid == uid, instances.c.frames > 0).limit(1)
        row = connection.execute(source).mappings().one()
        copy = {**row, "study_instance_uid": prior, "sop_instance_uid": "1.2.3.99.1", "series_instance_uid": "1.2.3.9"}
        connection.execute(sa.insert(instances).values(**copy))
    engine.dispose()
    status, _, body = served.get(f"/studies/{uid}")
    page = body.decode()
    assert status == 200
    assert "Earlier studies" in page
    assert "2025-11-03" in page
    assert "archive &lt;pacs&gt;: away" in page
    picture = f"/studies/{prior}/images/1.2.3.99.1/1.png"
    assert f'src="{picture}?thumb"' in page
    assert served.get(picture)[0] == 200
    assert served.get(f"/studies/{prior}")[0] == 404, "it is no study of its own"
    assert [row["state"] for row in served.json(f"/api/studies/{uid}")["retrievals"]] == ["failed", "done"]
