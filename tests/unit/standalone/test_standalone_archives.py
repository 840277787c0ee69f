"""What the `hilum` command does with archives, and tells of what was asked of them."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import Result

from hilum.adapters.sql.database import database_path, open_database, reading, transaction
from hilum.adapters.sql.tables import retrievals, studies
from hilum.runtime.config import ConfigError, DicomArchive, DicomwebArchive, parse
from hilum.testing.external import free_port
from hilum_standalone.diagnosis.check import Grade
from hilum_standalone.diagnosis.installation import installation
from hilum_standalone.plan import make_plan, programs

Hilum = Callable[..., Result]
NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
DICOM = '[[archives]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 104\n'
WEB = '[[archives]]\nname = "vna"\nkind = "dicomweb"\nurl = "http://127.0.0.1:8042/dicom-web"\n'


def test_an_archive_of_0_2_is_one_of_dicom_that_nothing_is_fetched_from() -> None:
    [archive] = parse(DICOM).archives
    assert isinstance(archive, DicomArchive)
    assert archive.retrieve == "none"
    [web] = parse(WEB + 'retrieve = "wado-rs"\n').archives
    assert isinstance(web, DicomwebArchive)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (DICOM + 'retrieve = "wado-rs"\n', "hilum.toml:6: archives.0.retrieve"),
        (WEB + 'retrieve = "c-get"\n', "hilum.toml:5: archives.0.retrieve"),
        (WEB.replace("dicomweb", "ftp"), "archives.0"),
        (WEB + 'ae_title = "PACS"\n', "hilum.toml:5: archives.0.ae_title: unknown key"),
    ],
)
def test_a_way_to_retrieve_that_an_archive_does_not_have_is_an_error_with_its_line(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r"archives\.0") as caught:
        parse(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "runs"), [("", False), (DICOM, False), (DICOM + 'retrieve = "c-get"\n', True), (WEB, False)]
)
def test_the_fetch_process_runs_when_there_is_an_archive_to_fetch_from(tmp_path: Path, text: str, runs: bool) -> None:
    (tmp_path / "run").mkdir()
    plan = make_plan(tmp_path, parse(text), base=tmp_path, dicom_port=0, http_port=0, demo=False)
    commands = {program.name: program.command for program in programs(plan)}
    assert ("fetch" in commands) == runs
    assert parse(plan.config.read_text()).archives == parse(text).archives
    if runs:
        assert commands["fetch"][:3] == ("-m", "hilum_listener", "fetch")


def ask(data: Path, kind: str, state: str, reason: str, *, target: str = "") -> str:
    """Puts down what was asked for the study `found`; returns its UID."""
    engine = open_database(database_path(data))
    with transaction(engine) as connection:
        uid = str(connection.execute(sa.select(studies.c.study_instance_uid).limit(1)).scalar_one())
        connection.execute(
            sa.insert(retrievals).values(
                study_instance_uid=uid, kind=kind, target_uid=target or uid, state=state, attempts=6, token=6,
                due_at=NOW, reason=reason, archive="pacs", sender_ae="", instances=["1.2.3"], came=0,
                study_date="20251103", asked_at=NOW, finished_at=NOW,
            )
        )  # fmt: skip
    engine.dispose()
    return uid


def test_what_was_asked_in_vain_is_noted_and_shown_with_its_study(hilum: Hilum, data: Path) -> None:
    uid = ask(data, "missing", "failed", "archive pacs: no association")
    ask(data, "prior", "failed", "archive pacs: it sent 0 of 1 images", target="1.2.9")
    found = {check.what: check for check in installation(data, parse(""))}
    assert found["Asked of archives"].grade is Grade.NOTE
    assert found["Asked of archives"].found.startswith("2 given up")
    shown = hilum("show", uid, "--data", data).output
    assert "asked for missing images: failed, 6 attempts: archive pacs: no association" in shown
    assert "20251103 1.2.9, 0 images here, from pacs: failed" in shown
    engine = open_database(database_path(data))
    with reading(engine) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(retrievals)).scalar_one() == 2
    engine.dispose()


@pytest.mark.parametrize("text", [DICOM.replace("104", "PORT"), WEB.replace("8042", "PORT")])
def test_an_archive_that_does_not_answer_is_red(data: Path, text: str) -> None:
    checks = installation(data, parse(text.replace("PORT", str(free_port()))))
    [check] = [check for check in checks if check.what.startswith("Archive ")]
    assert check.grade is Grade.RED
