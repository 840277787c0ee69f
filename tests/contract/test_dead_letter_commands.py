"""`hilum dead-letters` on each side: what it lists, what it says of a message, and publishing it again."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hilum.adapters.sql import ledger
from hilum.adapters.sql.database import reading, transaction
from hilum.contracts.catalogue import EXAMPLES
from hilum.contracts.trace import begin, trace_id
from hilum.ports.events import Outgoing
from hilum.testing.clock import SetClock
from hilum.testing.event_logs import KafkaSide, Side
from hilum.testing.postgresql import Database
from hilum_standalone.__main__ import main

CLOCK = SetClock(datetime(2026, 11, 24, 12, tzinfo=UTC))
NAME = "Doe^Jane"


@pytest.fixture
def set_clock() -> SetClock:
    return CLOCK


@pytest.fixture
def command(side: Side, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `hilum dead-letters …` on the site of this side."""
    options = ["--data", str(tmp_path)]
    if isinstance(side, KafkaSide):
        database: Database = request.getfixturevalue("postgresql_database")
        config = tmp_path / "hilum.toml"
        config.write_text(
            f'[cluster]\ndatabase = "{database.url}"\nkafka = ["{side.servers.bootstrap[0]}"]\n'
            f'redis = "redis://127.0.0.1:1"\ninstances = "{tmp_path}"\n'
        )
        options += ["--config", str(config)]
        for name, value in database.environment.items():
            monkeypatch.setenv(name, value)

    def run(name: str, *arguments: str) -> Result:
        done = CliRunner().invoke(main, ["dead-letters", name, *arguments, *options])
        assert NAME not in done.output
        return done

    return run


def bury(side: Side, payload: str, topic: str = "findings.produced", headers: dict[str, str] | None = None) -> None:
    """Makes the message a dead letter of the results service."""
    side.publish(Outgoing(topic, NAME, payload, headers or {}))
    reader = side.consumer("results", (topic,))
    (received,) = side.read(reader)
    with transaction(side.engine) as connection:
        reader.dead_letter(connection, received, "the index does not know the study", 2)
    reader.close()


def findings(**changes: object) -> str:
    return json.dumps({**json.loads((EXAMPLES / "findings.produced.json").read_text()), **changes})


def test_they_are_listed_with_place_reason_attempt_and_trace(side: Side, command: Any) -> None:
    assert command("list").output == "No dead letter waits.\n"
    headers = begin("1.2.3", 1)
    bury(side, findings(), headers=headers)
    (row,) = json.loads(command("list", "--json").output)
    assert (row["group"], row["topic"], row["attempt"], row["replayed_at"]) == (
        "results",
        "findings.produced",
        2,
        None,
    )
    assert (row["reason"], row["trace"]) == ("the index does not know the study", trace_id(headers))
    table = command("list").output
    assert f"findings.produced@{row['partition']}:{row['offset']}" in table
    assert trace_id(headers) in table


def test_what_is_wrong_with_one_is_said_without_quoting_it(side: Side, command: Any) -> None:
    bury(side, findings(revision=NAME, timings_s={NAME: "long"}, report={"text": NAME}))
    shown = json.loads(command("show", "1", "--json").output)
    assert shown["wrong_fields"] == [
        "revision: int_parsing",
        "report: string_type",
        "timings_s.*: float_parsing",
    ]
    assert (shown["expected"], shown["study_instance_uid"]) == ("findings.produced", None)
    assert "timings_s.*: float_parsing" in command("show", "1").output


def test_bytes_that_are_no_json_are_shown_as_that(side: Side, command: Any) -> None:
    bury(side, f"\\xff{NAME}")
    assert json.loads(command("show", "1", "--json").output)["wrong_fields"] == ["the message: json_invalid"]
    assert command("show", "2").exit_code == 1


def test_one_is_published_again_with_its_headers_and_marked(side: Side, command: Any) -> None:
    headers = begin("1.2.3", 1)
    bury(side, findings(), headers=headers)
    done = command("replay", "1")
    assert (done.exit_code, done.output) == (0, "1: published again on findings.produced\n")
    (again,) = side.read(side.consumer("results", ("findings.produced",)))
    assert (again.payload, dict(again.headers)) == (findings(), {**headers, "replay-of": "1"})
    twice = command("replay", "1", "7")
    assert (twice.exit_code, twice.output) == (1, "7: no such dead letter\n1: was published again before\n")
    with reading(side.engine) as connection:
        assert (ledger.count_dead_letters(connection), ledger.list_dead_letters(connection)) == (0, [])
    assert command("list").output == "No dead letter waits.\n"
    assert len(json.loads(command("list", "--all", "--json").output)) == 1


def test_all_that_wait_are_published_again_in_their_order(side: Side, command: Any) -> None:
    for number in range(3):
        bury(side, findings(report=str(number)))
    command("replay", "2")
    done = command("replay", "--all")
    assert done.output == "1: published again on findings.produced\n3: published again on findings.produced\n"
    assert command("replay", "--all").output == "No dead letter waits.\n"
    assert command("replay").exit_code == 2
    found = side.read(side.consumer("results", ("findings.produced",)), 3)
    assert [json.loads(received.payload)["report"] for received in found] == ["1", "0", "2"]
