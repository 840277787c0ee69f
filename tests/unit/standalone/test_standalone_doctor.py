"""`hilum doctor`: red where something doesn't work, with what to do."""

import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import Result

from hilum.adapters.sql.database import database_path, open_database, transaction
from hilum.adapters.sql.tables import dead_letters, deliveries
from hilum.runtime.config import parse
from hilum.testing.external import free_port
from hilum_medmo.build import built
from hilum_medmo.config import read_config
from hilum_medmo.identity import checkpoint_digest
from hilum_medmo.testing.random_checkpoint import write_random_checkpoint
from hilum_standalone.diagnosis.check import Check, Grade
from hilum_standalone.diagnosis.installation import installation
from hilum_standalone.diagnosis.machine import disk, machine, model

Hilum = Callable[..., Result]
NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.what: check for check in checks}


def test_this_machine_has_python_packages_and_decoders() -> None:
    assert [c for c in machine() if c.grade is not Grade.OK] == []


def test_a_checkpoint_without_weights_is_red(tmp_path: Path) -> None:
    (check,) = model(tmp_path)
    assert check.grade is Grade.RED
    assert "weights are missing" in check.found


def test_a_checkpoint_without_its_onnx_is_red_until_it_is_built(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path)
    assert [c.grade for c in model(tmp_path)] == [Grade.OK, Grade.RED]
    with built(tmp_path, read_config(tmp_path), checkpoint_digest(tmp_path)):
        pass
    assert [c.grade for c in model(tmp_path)] == [Grade.OK, Grade.OK]


def test_a_full_disk_is_red(tmp_path: Path) -> None:
    assert disk(tmp_path / "not" / "there", min_free_mb=0).grade is Grade.OK
    assert disk(tmp_path, min_free_mb=10**9).grade is Grade.RED


def test_before_the_first_start_nothing_is_red(tmp_path: Path) -> None:
    checks = list(installation(tmp_path / "none", parse("")))
    assert [c.grade for c in checks] == [Grade.NOTE]
    assert "hilum up" in checks[0].remedy


def test_a_folder_whose_services_are_down_says_how_to_start_them(data: Path) -> None:
    found = by_name(list(installation(data, parse(""))))
    assert found["Database"].grade is Grade.OK
    assert found["Services"].grade is Grade.NOTE
    assert found["Dead letters"].found == found["Parked deliveries"].found == "none"


def test_another_schema_is_red(data: Path) -> None:
    connection = sqlite3.connect(data / "hilum.db")
    connection.execute("UPDATE alembic_version SET version_num = '0000'")
    connection.commit()
    connection.close()
    found = by_name(list(installation(data, parse(""))))
    assert found["Database"].grade is Grade.RED
    assert "schema 0000, this release has" in found["Database"].found


@pytest.mark.parametrize("broken", ["no database", "a table is gone"])
def test_a_broken_database_is_red_and_one_line_for_the_other_commands(hilum: Hilum, data: Path, broken: str) -> None:
    if broken == "no database":
        (data / "hilum.db").write_bytes(b"something else, longer than the header of a database file " * 20)
        for rest in data.glob("hilum.db-*"):
            rest.unlink()
    else:
        engine = open_database(database_path(data))
        with transaction(engine) as connection:
            connection.exec_driver_sql("DROP TABLE deliveries")
        engine.dispose()
    checks = [c for c in installation(data, parse("")) if c.what == "Database"]
    assert checks[-1].grade is Grade.RED
    assert "is broken or not of this release (SQLITE_" in checks[-1].found
    done = hilum("studies", "--data", data)
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert "hilum doctor" in done.output


def test_dead_letters_and_parked_deliveries_are_red_with_their_reasons(data: Path) -> None:
    engine = open_database(database_path(data))
    with transaction(engine) as connection:
        connection.execute(
            sa.insert(dead_letters).values(
                consumer_group="worker", topic="inference.stat", offset=7, key="k", payload="{}", reason="not readable",
                created_at=NOW,
            )
        )  # fmt: skip
        connection.execute(sa.update(deliveries).values(state="parked", reason="0xA900 from the peer"))
    engine.dispose()
    found = by_name(list(installation(data, parse(""))))
    assert found["Dead letters"].grade is Grade.RED
    assert "not readable" in found["Dead letters"].found
    assert found["Parked deliveries"].grade is Grade.RED
    assert "0xA900 from the peer" in found["Parked deliveries"].found


@pytest.mark.parametrize(
    ("destination", "words"),
    [
        ('kind = "dicom"\nae_title = "P"\nhost = "127.0.0.1"\nport = PORT', "no association could be made"),
        ('kind = "fhir"\nurl = "http://127.0.0.1:PORT"', "no answer"),
        ('kind = "hl7"\nhost = "127.0.0.1"\nport = PORT', "nothing answers"),
    ],
)
def test_a_destination_that_does_not_answer_is_red(data: Path, destination: str, words: str) -> None:
    text = f'[[destinations]]\nname = "d"\n{destination}\n'.replace("PORT", str(free_port()))
    found = by_name(list(installation(data, parse(text))))
    assert found["Destination d"].grade is Grade.RED
    assert words in found["Destination d"].found


def test_the_exit_code_is_1_when_something_is_red(hilum: Hilum, data: Path, tmp_path: Path) -> None:
    config = tmp_path / "hilum.toml"
    config.write_text(f'[model]\ncheckpoint = "{tmp_path / "none"}"\n')
    done = hilum("doctor", "--data", data, "--config", config, "--json")
    assert done.exit_code == 1
    assert {"what": "Model", "grade": "red"}.items() <= {
        k: v for c in json.loads(done.output) if c["what"] == "Model" for k, v in c.items()
    }.items()
