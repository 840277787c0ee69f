"""`hilum deliveries`: what it lists, what it refuses; and where else a parked delivery shows."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import Result

from hilum.adapters.sql.database import database_path, open_database, transaction
from hilum.adapters.sql.tables import deliveries

Hilum = Callable[..., Result]
PACS = '[[destinations]]\nname = "pacs"\nkind = "dicom"\nae_title = "P"\nhost = "127.0.0.1"\nport = 104\n'
GONE = "its destination is not in the configuration"


@pytest.fixture
def parked(data: Path) -> Path:
    """The folder's one delivery, number 1, is parked; its peer had accepted an attempt before."""
    engine = open_database(database_path(data))
    with transaction(engine) as connection:
        connection.execute(sa.update(deliveries).values(state="parked", reason=GONE, accepted_at=None))
    engine.dispose()
    return data


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "site.toml"
    path.write_text(PACS)
    return path


def test_parked_and_queued_deliveries_are_listed_with_their_reason(
    hilum: Hilum, parked: Path, uids: tuple[str, str]
) -> None:
    table = hilum("deliveries", "--data", parked).output.splitlines()
    assert len(table) == 2
    for cell in ("1 ", "parked", "sr", "pacs", uids[0], GONE):
        assert cell in table[1]
    (listed,) = json.loads(hilum("deliveries", "--json", "--data", parked).output)
    assert {"id": 1, "study_uid": uids[0], "attempts": 1, "reason": GONE}.items() <= listed.items()


def test_nothing_to_do_is_one_line(hilum: Hilum, data: Path) -> None:
    assert hilum("deliveries", "--data", data).output == "No delivery is parked or queued.\n"
    assert hilum("deliveries", "--retry", "--all", "--data", data).output == "No delivery is parked.\n"


def test_put_back_it_is_queued_and_listed_as_such(hilum: Hilum, parked: Path, config: Path) -> None:
    done = hilum("deliveries", "--retry", "1", "--data", parked, "--config", config, "--json")
    assert done.exit_code == 0, done.output
    assert [one["state"] for one in json.loads(done.output)] == ["queued"]
    (listed,) = json.loads(hilum("deliveries", "--json", "--data", parked).output)
    assert listed["state"] == "queued"


def test_what_can_not_be_put_back_is_named_with_the_reason_and_exit_code_1(
    hilum: Hilum, parked: Path, data: Path, config: Path
) -> None:
    gone = hilum("deliveries", "--retry", "1", "--data", parked)  # no configuration, so no destination
    assert (gone.exit_code, gone.output) == (1, f"1: sr to pacs: still parked: {GONE}\n")
    unknown = hilum("deliveries", "--retry", "1", "--retry", "17", "--data", parked, "--config", config)
    assert unknown.exit_code == 1
    assert "17: no such delivery" in unknown.output
    again = hilum("deliveries", "--retry", "1", "--data", data, "--config", config)
    assert (again.exit_code, again.output) == (1, "1: is queued, not parked\n")


@pytest.mark.parametrize("arguments", [("--all",), ("--retry",), ("--retry", "x"), ("--retry", "1", "--all")])
def test_a_call_that_leaves_open_what_to_retry_changes_nothing(
    hilum: Hilum, parked: Path, config: Path, arguments: tuple[str, ...]
) -> None:
    done = hilum("deliveries", "--data", parked, "--config", config, *arguments)
    assert done.exit_code == 2
    assert "--retry" in done.output
    assert [one["state"] for one in json.loads(hilum("deliveries", "--json", "--data", parked).output)] == ["parked"]


def test_the_reason_of_a_parked_delivery_shows_wherever_its_study_does(
    hilum: Hilum, parked: Path, uids: tuple[str, str]
) -> None:
    assert f"sr to pacs: parked, 1 attempt; {GONE}" in hilum("show", uids[0], "--data", parked).output
    assert f"sr to pacs parked: {GONE}" in hilum("studies", "--data", parked).output
    doctor = hilum("doctor", "--data", parked).output
    assert GONE in doctor
    assert "hilum deliveries --retry --all" in doctor
